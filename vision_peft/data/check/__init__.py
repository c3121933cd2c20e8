"""What check-data finds in a dataset before anything is trained on it."""
