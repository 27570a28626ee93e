"""What the report pages have in common: HTML and overlays."""
