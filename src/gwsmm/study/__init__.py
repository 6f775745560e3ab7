"""Folders of finished runs → conditions, intervals and tests: what a report shows."""
