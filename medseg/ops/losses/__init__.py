"""Losses of segmentation maps and of features, labels of 255 left out."""
