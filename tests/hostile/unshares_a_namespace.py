# expect: refused by the sandbox
"""Makes itself root in a namespace of its own."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "unshare": {"x86_64": 272, "aarch64": 97},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


CLONE_NEWUSER = 0x10000000
attempt("unshare", CLONE_NEWUSER)


def add(a, b):
    return a + b
