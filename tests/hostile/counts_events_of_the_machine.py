# expect: refused by the sandbox
"""Opens a performance counter."""

call("perf_event_open", ctypes.create_string_buffer(128), 0, -1, -1, 0)
