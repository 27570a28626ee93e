"""Page and figures of self-training."""
