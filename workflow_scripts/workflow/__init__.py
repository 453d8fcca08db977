"""What the rules ask: which artifacts a configuration wants, and which of them are current."""
