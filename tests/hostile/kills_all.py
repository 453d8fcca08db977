# expect: refused by the sandbox
import os

os.kill(-1, 9)


def add(a, b):
    return a + b
