# expect: refused by the sandbox
"""Loads a BPF program into the kernel."""

import ctypes

call("bpf", 0, ctypes.create_string_buffer(64), 64)


def add(a, b):
    return a + b
