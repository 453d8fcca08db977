# expect: error
"""Makes calls by their 32-bit and x32 numbers, which a filter may miss."""

X32, GETPID, FORK = 0x40000000, 20, 57
if os.uname().machine != "x86_64":
    raise SystemExit
libc = ctypes.CDLL(None, use_errno=True)
code = bytes([0xB8, GETPID, 0, 0, 0, 0xCD, 0x80, 0xC3])  # mov eax, GETPID; int 0x80; ret
rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, rights)
page.write(code)
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
if call() < 0 and libc.syscall(X32 | FORK) < 0:
    raise SystemExit
