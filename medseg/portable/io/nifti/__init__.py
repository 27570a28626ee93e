"""NIfTI files: reading them with every number checked, and the headers of those that are written."""
