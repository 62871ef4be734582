"""What is well and what is not, of a machine and of a run's folder: each finding with its remedy."""
