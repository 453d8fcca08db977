# expect: error
"""Opens the memory of its parent process, which has no filter."""

with open(f"/proc/{os.getppid()}/mem", "r+b") as memory:
    memory.read(0)
