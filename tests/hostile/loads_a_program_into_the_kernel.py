# expect: refused by the sandbox
"""Loads a BPF program."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "bpf": {"x86_64": 321, "aarch64": 280},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


attempt("bpf", 0, ctypes.create_string_buffer(64), 64)


def add(a, b):
    return a + b
