# expect: refused by the sandbox
"""Leaves pages in shared memory, which its address space no longer holds."""

import mmap

held = [mmap.mmap(-1, 2**20)]
