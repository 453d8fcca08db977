# expect: refused by the sandbox
"""Becomes the tracer of the runner."""

import os

PTRACE_ATTACH = 16
call("ptrace", PTRACE_ATTACH, os.getppid(), None, None)


def add(a, b):
    return a + b
