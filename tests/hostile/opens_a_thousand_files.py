# expect: error
"""Holds kernel memory with a thousand open descriptors of pipes."""

held = [os.pipe() for _ in range(500)]
