"""`medseg export`."""
