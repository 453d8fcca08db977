"""Finds the files of a results folder. What leads elsewhere is not part of it."""

import os
from pathlib import Path

CACHE = "SNAKEMAKE_OUTPUT_CACHE"  # names the folder of results that several runs share


def is_own(folder: Path, file: Path) -> bool:
    """Whether a file lies in a results folder, or is a link from there to this user's cache."""
    found = Path(os.path.realpath(file))
    homes = [folder, *filter(None, [os.environ.get(CACHE)])]
    return found.is_file() and any(found.is_relative_to(os.path.realpath(home)) for home in homes)


def own_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a results folder that fit a pattern."""
    return [file for file in sorted(folder.glob(pattern)) if is_own(folder, file)]
