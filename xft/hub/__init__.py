"""Fetches models, rows and problems from the network."""
