"""Who holds what: preparing, splitting and reading interaction data."""
