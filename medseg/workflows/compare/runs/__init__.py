"""The trainings of a comparison: planned, queued, run."""
