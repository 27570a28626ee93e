"""The stages of a run: built from the plan, prepared, trained, and what they leave to the next."""
