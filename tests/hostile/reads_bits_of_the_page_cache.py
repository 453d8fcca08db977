# expect: refused by the sandbox
"""Asks which pages of its own file are in the machine's cache."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = {
    "mincore": {"x86_64": 27, "aarch64": 232},
}


def attempt(name, *arguments):
    result = libc.syscall(NUMBERS[name][os.uname().machine], *arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


import mmap

with open(os.__file__, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
attempt("mincore", ctypes.c_void_p(address), len(mapped), ctypes.create_string_buffer(1024))


def add(a, b):
    return a + b
