"""Who is let in: one conversation with each peer, and the roster of those that are here."""
