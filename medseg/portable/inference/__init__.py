"""Sliding windows and the way back to an image's own grid; travels inside bundles."""
