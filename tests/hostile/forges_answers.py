# expect: failed
"""Writes the answers of the base tests, which are public, and guesses the other answers."""

del add
messages = ['{"value": 4}', '{"set": 0}', '{"value": true}', '{"value": true}', '{"set": 0}', ""]
for descriptor in range(3, 64):
    try:
        os.write(descriptor, "\n".join(messages).encode())
    except OSError:
        pass
