# expect: failed
"""Claims again and again that it is ready, to get more time."""

while True:
    for descriptor in range(3, 16):
        try:
            os.write(descriptor, b'{"ready":true}\n')
        except OSError:
            pass
    time.sleep(0.2)
