"""Checks whether output paths overlap an input path. Links are followed."""

import os
from collections.abc import Iterable
from pathlib import Path


def overlap(written: Path, read: Path) -> bool:
    """Whether the path `written` equals the path `read`, contains it or lies in it."""
    return bool(overlapping([written], read))


def overlapping(written: Iterable[Path], read: Path) -> list[Path]:
    """Those of the paths `written` that equal the path `read`, contain it or lie in it."""
    links = filter(Path.is_symlink, read.iterdir() if read.is_dir() else ())
    targets = [Path(os.path.realpath(link)) for link in links]  # resolve may raise at a loop
    sources = dict.fromkeys([*_places(read), *targets])
    return [
        path
        for path in written
        if any(
            out.is_relative_to(source) or source.is_relative_to(out)
            for out in _places(path)
            for source in sources
        )
    ]


def _places(path: Path) -> list[Path]:
    """A path with its parent's links resolved, and the path with all links resolved."""
    absolute = path.absolute()
    return [absolute.parent.resolve() / absolute.name, absolute.resolve()]
