# expect: refused by the sandbox
"""Lets the kernel do what the filter refuses."""

import ctypes

call("io_uring_setup", 8, ctypes.create_string_buffer(256))


def add(a, b):
    return a + b
