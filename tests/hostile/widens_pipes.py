# expect: refused by the sandbox
"""Holds memory in pipes with a megabyte each."""

import fcntl

F_SETPIPE_SZ = 1031
held = [os.pipe() for _ in range(16)]
for _, writer in held:
    fcntl.fcntl(writer, F_SETPIPE_SZ, 2**20)
