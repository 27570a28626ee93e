"""`medseg evaluate`."""
