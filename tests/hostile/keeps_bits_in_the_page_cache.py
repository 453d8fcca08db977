# expect: refused by the sandbox
"""Removes pages of a file from the machine's cache. The next run could see that."""

descriptor = os.open(os.__file__, os.O_RDONLY)
os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
