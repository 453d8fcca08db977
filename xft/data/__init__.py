"""Reads and filters instruction rows, puts them into prompts, and tokenises them."""
