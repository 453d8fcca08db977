# expect: refused by the sandbox
"""Holds more memory than its limit in memory files, which are outside its address space."""

held = [os.memfd_create(str(number)) for number in range(24)]
for descriptor in held:
    for _ in range(100):
        os.write(descriptor, bytes(2**20))
