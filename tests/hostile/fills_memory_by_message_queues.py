# expect: refused by the sandbox
"""Holds memory in System V message queues."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "msgget": {"x86_64": 68, "aarch64": 186},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


IPC_CREAT = 0o1000
held = [attempt("msgget", key, IPC_CREAT | 0o600) for key in range(1, 100)]


def add(a, b):
    return a + b
