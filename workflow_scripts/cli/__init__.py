"""The command lines of the steps and tools: flags, and errors without a stack trace."""
