# expect: refused by the sandbox
"""Makes itself root in a new namespace."""

CLONE_NEWUSER = 0x10000000
call("unshare", CLONE_NEWUSER)
