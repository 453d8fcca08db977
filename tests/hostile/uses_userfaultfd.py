# expect: refused by the sandbox
"""Uses userfaultfd, which can stop the kernel in the middle of a call."""

call("userfaultfd", 0)
