# expect: refused by the sandbox
"""Mounts a file system of its own."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "mount": {"x86_64": 165, "aarch64": 40},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


attempt("mount", b"none", b"/dev", b"tmpfs", 0, None)


def add(a, b):
    return a + b
