# expect: refused by the sandbox
"""Opens a socket to the host of a virtual machine."""

socket.socket(socket.AF_VSOCK)
