"""Results on disk → tables and figures; computes nothing."""
