"""Simulated devices for real training: traces of speed, bandwidth, availability and drop-out, and the clock they make."""
