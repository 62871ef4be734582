"""What is checked of a job: single sections, and one against another."""
