"""`medseg train` and `medseg plan`."""
