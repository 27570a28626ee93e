"""`medseg data init` and `medseg data check`."""
