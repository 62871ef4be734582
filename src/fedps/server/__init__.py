"""What a server does: who takes part, when pushes are applied, and how they combine."""
