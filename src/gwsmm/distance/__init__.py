"""How far apart two items are: one strategy per file."""
