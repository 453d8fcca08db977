# expect: failed
"""Imports the program that judges."""

import workflow_scripts


def add(a, b):
    return a + b
