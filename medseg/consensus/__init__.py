"""Several raters' annotations of one image to one label map, with an account of who was trusted and why."""
