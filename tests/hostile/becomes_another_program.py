# expect: refused by the sandbox
"""Replaces itself by another program, without the limits that Python set."""

os.execv(sys.executable, ["python", "-c", ""])
