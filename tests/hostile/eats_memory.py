# expect: failed
held = bytearray(2**40)
