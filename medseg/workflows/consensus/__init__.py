"""`medseg consensus`."""
