# expect: refused by the sandbox
"""Changes the mode of /dev/null for all processes of the machine, as root can."""

import os

os.chmod("/dev/null", os.stat("/dev/null").st_mode & 0o777)  # the same mode: it does no harm


def add(a, b):
    return a + b
