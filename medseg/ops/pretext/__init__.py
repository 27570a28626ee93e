"""Learning from images without labels: tasks that need none, and the patches they ask about."""
