"""From a source to client files."""
