# expect: refused by the sandbox
"""Removes pages of a file from the machine's cache, through a mapping."""

MADV_PAGEOUT = 21
with open(os.__file__, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
mapped.madvise(MADV_PAGEOUT)
