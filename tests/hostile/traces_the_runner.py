# expect: refused by the sandbox
"""Traces the runner as a debugger does."""

import os

PTRACE_ATTACH = 16
call("ptrace", PTRACE_ATTACH, os.getppid(), None, None)


def add(a, b):
    return a + b
