# expect: refused by the sandbox
"""Loads a BPF program into the kernel."""

call("bpf", 0, ctypes.create_string_buffer(64), 64)
