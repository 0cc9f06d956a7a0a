"""What is printed, drawn and written about runs and data."""
