"""The processes of a run: start, watch, stop, and tell people."""
