# expect: refused by the sandbox
"""Opens an internet socket."""

socket.socket(socket.AF_INET)
