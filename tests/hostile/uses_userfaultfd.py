# expect: refused by the sandbox
"""Stops the kernel in the middle of a call."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "userfaultfd": {"x86_64": 323, "aarch64": 282},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


attempt("userfaultfd", 0)


def add(a, b):
    return a + b
