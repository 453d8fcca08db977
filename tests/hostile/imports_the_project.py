# expect: error
"""Imports the program that judges it."""

import xft
