"""Where independent tasks run: on the workers of a cluster, of one or many machines."""
