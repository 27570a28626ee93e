"""One module per command: each runs its stages in order."""
