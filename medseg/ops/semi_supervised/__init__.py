"""Learning from labelled and unlabelled images together: averaged teachers, mixed images, balanced classes."""
