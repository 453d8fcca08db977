"""Command lines of the steps and tools: their flags, and errors without a stack trace."""
