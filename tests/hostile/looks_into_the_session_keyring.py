# expect: refused by the sandbox
"""Lists the session keyring."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "keyctl": {"x86_64": 250, "aarch64": 219},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


KEYCTL_READ, SESSION = 11, -3
attempt("keyctl", KEYCTL_READ, SESSION, None, 0, 0)


def add(a, b):
    return a + b
