"""What prediction writes: label files in their formats, overlays, and the page."""
