# expect: refused by the sandbox
"""Leaves pages in shared memory, which its address space no longer holds."""

held = [mmap.mmap(-1, 2**20)]
