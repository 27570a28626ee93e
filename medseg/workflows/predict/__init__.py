"""`medseg predict`."""
