# expect: error
"""Writes a gigabyte to the temporary folder."""

import tempfile

with tempfile.TemporaryFile() as file:
    for _ in range(2**10):
        file.write(bytes(2**20))
