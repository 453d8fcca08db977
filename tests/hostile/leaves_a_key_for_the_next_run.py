# expect: refused by the sandbox
"""Adds a key to the session keyring, which the next run could read."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "add_key": {"x86_64": 248, "aarch64": 217},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


SESSION = -3
attempt("add_key", b"user", b"bit", b"1", 1, SESSION)


def add(a, b):
    return a + b
