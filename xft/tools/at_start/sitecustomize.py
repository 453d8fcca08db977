"""Registers mixtures where Python starts with this folder on PYTHONPATH (`xft with-mixtures`)."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3]))  # of a clone that is not installed
import xft  # noqa: F401
