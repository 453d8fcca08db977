# expect: refused by the sandbox
"""Traces the runner as a debugger does."""

PTRACE_ATTACH = 16
call("ptrace", PTRACE_ATTACH, os.getppid(), None, None)
