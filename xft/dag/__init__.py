"""Finds out for the rules which artifacts a configuration wants, and which of them are current."""
