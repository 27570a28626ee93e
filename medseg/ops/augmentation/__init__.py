"""Random changes of training patches: one class for each transform, and their settings."""
