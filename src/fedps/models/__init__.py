"""Networks, and the measures of their answers."""
