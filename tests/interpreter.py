"""A new Python interpreter, which finds this project."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python(*words, status: int = 0, **options) -> subprocess.CompletedProcess:
    """Run it with these words. It must end with this status. options: of subprocess.run."""
    command, environment = (
        [sys.executable, *map(str, words)],
        os.environ | {"PYTHONPATH": str(ROOT)},
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, **options)
    assert done.returncode == status, done.stderr
    return done
