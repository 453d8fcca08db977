# expect: refused by the sandbox
"""Looks for keys of the caller, which may be tokens."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "request_key": {"x86_64": 249, "aarch64": 218},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


attempt("request_key", b"user", b"token", None, 0)


def add(a, b):
    return a + b
