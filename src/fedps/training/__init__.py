"""Steps on rows, whoever asks for them."""
