"""The training engine: MONAI's trainer, its handlers, checkpoints and logs."""
