"""Where items come from, and how their responses are split: one file per source or strategy."""
