"""The steps of XFT: one module for each workflow rule. The packages are the library."""

from pathlib import Path

# `python -m workflow_scripts.plan` finds the tools too.
__path__.append(str(Path(__file__).with_name("tools")))
