"""What fedps costs on this machine, beside what one would use instead: `python -m bench`."""
