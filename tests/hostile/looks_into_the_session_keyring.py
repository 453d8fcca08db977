# expect: refused by the sandbox
"""Lists the session keyring."""

KEYCTL_READ, SESSION = 11, -3
call("keyctl", KEYCTL_READ, SESSION, None, 0, 0)
