"""Studies from arrays and images in memory, and the answer in the same kind and label values."""
