# expect: failed
"""Imports the program that judges it."""

import workflow_scripts


def add(a, b):
    return a + b
