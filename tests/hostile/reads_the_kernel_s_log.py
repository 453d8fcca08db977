# expect: refused by the sandbox
"""Reads the log of the machine."""

import ctypes

call("syslog", 3, ctypes.create_string_buffer(4096), 4096)


def add(a, b):
    return a + b
