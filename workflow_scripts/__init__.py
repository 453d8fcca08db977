"""The steps of XFT: one module for each workflow rule. The library is the package `xft`."""

from xft import tools

# `python -m workflow_scripts.verify` runs a tool, as `xft verify` does.
__path__.extend(tools.__path__)
