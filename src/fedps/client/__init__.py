"""What a worker does: its own data and tables, the training step, and when to pull and push."""
