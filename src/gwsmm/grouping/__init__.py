"""Distances → Plan: which items share an encoder; one strategy per file."""
