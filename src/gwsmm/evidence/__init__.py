"""What can be concluded from the scores of several items: intervals, tests, and what predicts."""
