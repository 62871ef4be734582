"""Networks and the measures of what they learn; `metrics` is plain numpy, the rest needs torch."""
