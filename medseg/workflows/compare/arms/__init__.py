"""What is compared, and on which data."""
