"""`medseg demo`: generated scans, a training on them, and its report."""
