# expect: failed
held = bytearray(2**40)


def add(a, b):
    return a + b
