# expect: refused by the sandbox
import os

os.kill(os.getppid(), 9)


def add(a, b):
    return a + b
