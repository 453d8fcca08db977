"""What a configuration wants, what is there, and whether the two agree."""
