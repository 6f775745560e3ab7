"""Members of a group → one shared encoder: one strategy per file."""
