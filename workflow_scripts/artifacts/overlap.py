"""Checks whether an output path overlaps an input path. Links are followed."""

from pathlib import Path


def overlap(written: Path, read: Path) -> bool:
    """Whether the path `written` equals the path `read`, contains it or lies in it."""
    targets = [entry.resolve() for entry in _entries(read) if entry.is_symlink()]
    return any(
        out.is_relative_to(source) or source.is_relative_to(out)
        for out in _places(written)
        for source in [*_places(read), *targets]
    )


def _entries(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []


def _places(path: Path) -> list[Path]:
    """A path with its parent's links resolved, and the path with all links resolved."""
    absolute = path.absolute()
    return [absolute.parent.resolve() / absolute.name, absolute.resolve()]
