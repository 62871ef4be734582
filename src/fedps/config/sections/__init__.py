"""Sections of a job, each in a file of its own."""
