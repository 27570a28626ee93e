"""`medseg compare`: several arms trained on the same data, side by side, and which of them to take."""
