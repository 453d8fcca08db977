# expect: failed
"""Starts threads, whose number no limit of the system bounds for root."""

import threading
import time

for _ in range(100):
    threading.Thread(target=time.sleep, args=[9], daemon=True).start()


def add(a, b):
    return a + b
