# expect: refused by the sandbox
"""Opens a socket to the host of a virtual machine."""

import socket

socket.socket(socket.AF_VSOCK)


def add(a, b):
    return a + b
