# expect: error
"""Starts one thread. The documentation says that none is allowed."""

import threading

threading.Thread(target=print).start()
