"""Checks whether an output path overlaps an input path. Links are followed."""

import os
from pathlib import Path


def overlap(written: Path, read: Path) -> bool:
    """Whether the path `written` equals the path `read`, contains it or lies in it."""
    links = filter(Path.is_symlink, read.iterdir() if read.is_dir() else ())
    targets = [Path(os.path.realpath(link)) for link in links]  # resolve may raise at a loop
    return any(
        out.is_relative_to(source) or source.is_relative_to(out)
        for out in _places(written)
        for source in (*_places(read), *targets)
    )


def _places(path: Path) -> list[Path]:
    """A path with its parent's links resolved, and the path with all links resolved."""
    absolute = path.absolute()
    return [absolute.parent.resolve() / absolute.name, absolute.resolve()]
