"""Instruction rows and the prompts around them."""
