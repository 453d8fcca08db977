# expect: refused by the sandbox
"""Takes a descriptor of another process."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "pidfd_open": {"x86_64": 434, "aarch64": 434},
    "pidfd_getfd": {"x86_64": 438, "aarch64": 438},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


pidfd = attempt("pidfd_open", os.getppid(), 0)
attempt("pidfd_getfd", pidfd, 0, 0)


def add(a, b):
    return a + b
