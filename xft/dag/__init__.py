"""Lists the artifacts that a configuration wants, and the jobs that make them."""
