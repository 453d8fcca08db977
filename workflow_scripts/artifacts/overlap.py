"""Whether a path to be written overlaps one that is read. Links are followed."""

from pathlib import Path


def overlap(written: Path, read: Path) -> bool:
    """Whether a path to be written is, holds or lies in one that is read."""
    targets = [entry.resolve() for entry in _entries(read) if entry.is_symlink()]
    return any(
        out.is_relative_to(source) or source.is_relative_to(out)
        for out in _places(written)
        for source in [*_places(read), *targets]
    )


def _entries(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []


def _places(path: Path) -> list[Path]:
    """Where a path itself is, and where it leads to if it is a link."""
    absolute = path.absolute()
    return [absolute.parent.resolve() / absolute.name, absolute.resolve()]
