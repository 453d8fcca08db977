# expect: refused by the sandbox
"""Lets the kernel do what the filter refuses."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "io_uring_setup": {"x86_64": 425, "aarch64": 425},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


attempt("io_uring_setup", 8, ctypes.create_string_buffer(256))


def add(a, b):
    return a + b
