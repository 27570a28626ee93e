"""What the trained models reach, case by case."""
