# expect: refused by the sandbox
"""Becomes the tracer of the runner."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "ptrace": {"x86_64": 101, "aarch64": 117},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


PTRACE_ATTACH = 16
attempt("ptrace", PTRACE_ATTACH, os.getppid(), None, None)


def add(a, b):
    return a + b
