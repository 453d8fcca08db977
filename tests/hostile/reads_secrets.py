# expect: error
"""Reads a file that only root may read."""

open("/etc/shadow").read()
