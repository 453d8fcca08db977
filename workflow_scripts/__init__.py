"""XFT, step by step: one module for each workflow rule; the library is in the packages."""

from pathlib import Path

# `python -m workflow_scripts.plan` finds the tools as well as the steps.
__path__.append(str(Path(__file__).with_name("tools")))
