# expect: refused by the sandbox
"""Opens a Unix socket, which could reach a service of the host by its path."""

socket.socket(socket.AF_UNIX)
