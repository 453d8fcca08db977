"""Finds the files of a results folder. What leads elsewhere is not part of it."""

import os
from pathlib import Path

from xft.store.store import in_store


def is_own(folder: Path, file: Path) -> bool:
    """Whether a file lies in a results folder, or is a link from there into a store."""
    found = Path(os.path.realpath(file))
    return found.is_file() and (found.is_relative_to(os.path.realpath(folder)) or in_store(found))


def own_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a results folder that fit a pattern."""
    return [file for file in sorted(folder.glob(pattern)) if is_own(folder, file)]
