# expect: failed
"""Starts one thread: none is allowed, as the documentation says."""

import threading

threading.Thread(target=print).start()


def add(a, b):
    return a + b
