"""A new Python interpreter, which finds this project."""

import os
import subprocess
import sys
from pathlib import Path

from fork_server import PYTHON

ROOT = Path(__file__).parents[1]


def python(*words, status: int = 0, program=sys.executable, **options):
    """Run it with these words. It must end with this status. options: of subprocess.run."""
    options |= {"env": os.environ | {"PYTHONPATH": str(ROOT)}, "capture_output": True}
    done = subprocess.run([program, *map(str, words)], text=True, **options)
    assert done.returncode == status, done.stderr
    return done


def forked(*words, **options):
    """The same by a fork of the server, which has imported transformers. The test uses the fixture
    `fork_server`.
    """
    return python(*words, program=PYTHON, **options)
