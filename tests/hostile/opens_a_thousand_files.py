# expect: failed
"""Holds kernel memory with a thousand open descriptors of pipes."""

import os

held = [os.pipe() for _ in range(500)]


def add(a, b):
    return a + b
