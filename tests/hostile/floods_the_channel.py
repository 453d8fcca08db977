# expect: too costly to judge

for descriptor in range(3, 64):
    try:
        for _ in range(2**16):
            os.write(descriptor, b"x" * 2**16)
    except OSError:
        pass
