# expect: refused by the sandbox
"""Changes a device's times, which the next run could read."""

import os

os.utime("/dev/null")


def add(a, b):
    return a + b
