# expect: refused by the sandbox
"""Asks which pages of a file are in the machine's cache."""

with open(os.__file__, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
call("mincore", ctypes.c_void_p(address), len(mapped), ctypes.create_string_buffer(1024))
