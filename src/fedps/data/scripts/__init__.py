"""What the original's scripts import."""
