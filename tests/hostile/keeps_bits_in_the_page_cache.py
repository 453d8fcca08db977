# expect: refused by the sandbox
"""Removes pages of a file from the machine's cache. The next run could see that."""

import os

descriptor = os.open(os.__file__, os.O_RDONLY)
os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def add(a, b):
    return a + b
