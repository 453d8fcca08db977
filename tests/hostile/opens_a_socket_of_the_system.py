# expect: refused by the sandbox
"""Opens a socket that could reach a service of the host by its name."""

import socket

socket.socket(socket.AF_UNIX)


def add(a, b):
    return a + b
