# expect: failed
"""Opens the memory of the process that started it, which has no filter."""

import os

with open(f"/proc/{os.getppid()}/mem", "r+b") as memory:
    memory.read(0)


def add(a, b):
    return a + b
