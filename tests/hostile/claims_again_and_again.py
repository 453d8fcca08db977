# expect: failed
"""Claims again and again that it is ready, and that a set has ended, to get more time."""

while True:
    for descriptor in range(3, 16):
        try:
            os.write(descriptor, b'{"ready":true}\n{"set":0}\n')
        except OSError:
            pass
    time.sleep(0.2)
