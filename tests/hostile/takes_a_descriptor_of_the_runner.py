# expect: refused by the sandbox
"""Takes a descriptor of another process."""

pidfd = call("pidfd_open", os.getppid(), 0)
call("pidfd_getfd", pidfd, 0, 0)
