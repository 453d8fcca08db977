# expect: refused by the sandbox
"""Starts processes without end."""

import os

while os.fork() or True:
    pass
