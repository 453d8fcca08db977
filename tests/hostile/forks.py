# expect: refused by the sandbox
"""Starts processes without end."""

while os.fork() or True:
    pass
