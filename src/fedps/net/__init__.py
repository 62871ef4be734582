"""How messages travel: over gRPC between machines, or within one process, under the same calls."""
