"""Learning from image-level tags: class-activation maps, and what makes pseudo-labels of them."""
