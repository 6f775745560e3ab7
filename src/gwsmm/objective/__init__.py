"""What a sweep goes by: one file per objective."""
