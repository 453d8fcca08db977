# expect: refused by the sandbox
"""Makes system calls through io_uring, which bypasses filters."""

call("io_uring_setup", 8, ctypes.create_string_buffer(256))
