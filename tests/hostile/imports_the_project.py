# expect: failed
"""Imports the program that judges it."""

import xft


def add(a, b):
    return a + b
