# expect: refused by the sandbox
"""Drops pages of a file of the machine from its cache, which the next run could see."""

import os

descriptor = os.open(os.__file__, os.O_RDONLY)
os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def add(a, b):
    return a + b
