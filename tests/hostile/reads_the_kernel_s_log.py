# expect: refused by the sandbox
"""Reads the log of the machine."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "syslog": {"x86_64": 103, "aarch64": 116},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


attempt("syslog", 3, ctypes.create_string_buffer(4096), 4096)


def add(a, b):
    return a + b
