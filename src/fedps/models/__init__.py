"""Networks and their losses; `network`, which describes one, is plain numpy, the rest needs torch."""
