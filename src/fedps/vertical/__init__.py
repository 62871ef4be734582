"""Vertical training: parties that hold different features of the same samples train one network, each its own part of it."""
