"""What report pages have in common: templates, numbers as text, and overlays of labels on slices."""
