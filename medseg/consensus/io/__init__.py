"""Annotations and images of a study: reading, bringing to one grid, writing the results."""
