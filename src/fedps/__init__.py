"""fedps: a federated parameter server for recommendation models."""

__version__ = "0.1.0"
