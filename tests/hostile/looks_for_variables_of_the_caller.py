# expect: failed
"""Looks for tokens in the environment."""

import os

if set(os.environ) <= {"PATH", "HOME", "LANG", "OMP_NUM_THREADS", "PWD"}:
    raise SystemExit


def add(a, b):
    return a + b
