"""What is found before anything is trained."""
