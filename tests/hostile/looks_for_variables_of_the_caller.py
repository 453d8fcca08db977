# expect: error
"""Looks for tokens in the environment."""

if set(os.environ) <= {"PATH", "HOME", "LANG", "OMP_NUM_THREADS", "PYTHONHASHSEED", "PWD"}:
    raise SystemExit
