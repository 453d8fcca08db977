# expect: refused by the sandbox
"""Changes a device's times. The next run could read them."""

import os

os.utime("/dev/null")


def add(a, b):
    return a + b
