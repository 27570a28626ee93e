"""Whether an image and what was found in it are like those of the training."""
