"""Modules under the names by which the reader scripts of PaddleRec import them."""
