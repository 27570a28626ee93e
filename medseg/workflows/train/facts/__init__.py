"""What a bundle keeps of its training, measured and written when the training is finished."""
