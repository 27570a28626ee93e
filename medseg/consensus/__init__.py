"""Several raters' annotations of one image to one label map, and a report of who was trusted and why."""
