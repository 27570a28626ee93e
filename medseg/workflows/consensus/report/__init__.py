"""The report page of a consensus."""
