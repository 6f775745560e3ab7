"""What is deployed: one folder that scores responses to all items, without the run it came from."""
