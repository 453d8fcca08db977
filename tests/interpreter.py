"""A new Python interpreter, which finds this project."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python(*words, status: int = 0, **options) -> subprocess.CompletedProcess:
    """Run it with these words. It must end with this status. options: of subprocess.run."""
    options |= {"env": os.environ | {"PYTHONPATH": str(ROOT)}, "capture_output": True}
    done = subprocess.run([sys.executable, *map(str, words)], text=True, **options)
    assert done.returncode == status, done.stderr
    return done
