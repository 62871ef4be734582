"""The original's job files, key by key."""
