# expect: refused by the sandbox
"""Stops the kernel in the middle of a call."""

call("userfaultfd", 0)


def add(a, b):
    return a + b
