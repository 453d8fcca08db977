# expect: refused by the sandbox
"""Opens a socket of the internet."""

import socket

socket.socket(socket.AF_INET)


def add(a, b):
    return a + b
