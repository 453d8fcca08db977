# expect: refused by the sandbox
"""Opens a socket to the machine that hosts a virtual one."""

import socket

socket.socket(socket.AF_VSOCK)


def add(a, b):
    return a + b
