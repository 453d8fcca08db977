# expect: refused by the sandbox
"""Reads the kernel's log."""

call("syslog", 3, ctypes.create_string_buffer(4096), 4096)
