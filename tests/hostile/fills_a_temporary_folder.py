# expect: failed
"""Writes a gigabyte where programs may write."""

import tempfile

with tempfile.TemporaryFile() as file:
    for _ in range(2**10):
        file.write(bytes(2**20))


def add(a, b):
    return a + b
