"""What one rater annotated: label maps, probabilities, DICOM, names of its classes, and what was not looked at."""
