"""The user's config: its text, and what it asks of the base model. Nothing here imports torch."""
