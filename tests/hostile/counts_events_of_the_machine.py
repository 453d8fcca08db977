# expect: refused by the sandbox
"""Opens a performance counter."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "perf_event_open": {"x86_64": 298, "aarch64": 241},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


attempt("perf_event_open", ctypes.create_string_buffer(128), 0, -1, -1, 0)


def add(a, b):
    return a + b
