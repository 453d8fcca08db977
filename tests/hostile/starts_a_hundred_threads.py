# expect: failed
"""Starts many threads. The system does not limit their number for root."""

import threading

for _ in range(100):
    threading.Thread(target=time.sleep, args=[9], daemon=True).start()
