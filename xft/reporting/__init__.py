"""Writes tables and texts for people: the summary and the model cards."""
