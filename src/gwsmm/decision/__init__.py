"""From an item's logits to probabilities and decisions: one strategy per file."""
