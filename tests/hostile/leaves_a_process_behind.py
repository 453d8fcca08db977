# expect: refused by the sandbox
import os
import time

if os.fork() == 0:
    os.setsid()
    while True:
        time.sleep(0.01)


def add(a, b):
    return a + b
