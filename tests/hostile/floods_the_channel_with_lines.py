# expect: too costly to judge

for descriptor in range(3, 64):
    try:
        while True:
            os.write(descriptor, b"{}\n" * 2**14)
    except OSError:
        pass
