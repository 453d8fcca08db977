# expect: refused by the sandbox
"""Replaces itself by another program, without the limits that Python set."""

import os
import sys

os.execv(sys.executable, ["python", "-c", ""])
