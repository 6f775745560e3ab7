"""The command line; the only door for Hydra.

Nothing here imports torch before the configuration is known to be sound.
"""
