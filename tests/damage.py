"""Damages files."""

from pathlib import Path


def flip_a_bit(file: Path, position: int = -1) -> None:
    """Change a byte of a file, even if it is read-only."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.unlink()
    file.write_bytes(content)
