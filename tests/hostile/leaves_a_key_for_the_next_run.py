# expect: refused by the sandbox
"""Adds a key to the session keyring. The next run could read it."""

SESSION = -3
call("add_key", b"user", b"bit", b"1", 1, SESSION)
