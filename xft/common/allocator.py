"""Sets up malloc for tensors."""

import ctypes
import os
import platform
import sys

# Parameters of glibc's mallopt, and their values in bytes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE = 32 * 2**20


def reuse_freed_memory() -> None:
    """Let glibc's malloc keep the memory of tensors below 32 MiB for the next ones.

    It keeps up to 64 MiB. By itself it does so after the first tensor of almost 32 MiB. Until then
    it gives memory back that the next tensors need again, and the system clears each of its pages.
    Another malloc, and one with variables such as MALLOC_TRIM_THRESHOLD_, stay as they are.
    """
    is_glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    if is_glibc and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE)
        mallopt(M_TRIM_THRESHOLD, 2 * LARGE)
