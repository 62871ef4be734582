"""The training step as machine code: a network is traced once, written as C++, compiled, and called without torch."""
