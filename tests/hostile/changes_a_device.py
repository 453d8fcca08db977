# expect: refused by the sandbox
"""Takes /dev/null from all processes of the machine, as root can."""

import os

os.chmod("/dev/null", os.stat("/dev/null").st_mode & 0o777)  # as it is: nobody is harmed


def add(a, b):
    return a + b
