"""The items' heads on their new encoder: one strategy per file."""
