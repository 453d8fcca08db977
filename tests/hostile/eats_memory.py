# expect: error
held = bytearray(2**40)
