# expect: refused by the sandbox
"""Opens an internet socket."""

import socket

socket.socket(socket.AF_INET)


def add(a, b):
    return a + b
