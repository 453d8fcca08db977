# expect: failed
"""Imports the program that judges it."""

import xft
