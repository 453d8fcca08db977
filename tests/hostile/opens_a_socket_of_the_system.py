# expect: refused by the sandbox
"""Opens a Unix socket, which could reach a service of the host by its path."""

import socket

socket.socket(socket.AF_UNIX)


def add(a, b):
    return a + b
