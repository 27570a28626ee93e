"""The ways in which people lay out images and labels, each read into the cases of a manifest."""
