"""Who decides each round who trains: membership, selection, assignments, merged figures. No torch here."""
