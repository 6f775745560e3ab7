"""What every item keeps for itself beside its head: one strategy per file."""
