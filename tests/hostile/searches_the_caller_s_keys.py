# expect: refused by the sandbox
"""Looks for keys of the caller, which may be tokens."""

call("request_key", b"user", b"token", None, 0)
