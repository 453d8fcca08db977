"""What a program in the sandbox sees of this machine: mounts, as words for bubblewrap."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
# The environment of each program, beside its own.
CLEAN_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}


@dataclass(frozen=True)
class View:
    """What a program has of this machine.

    mounts: words for bubblewrap.
    covered: folders among them that are empty, and stay so.
    environment: all its variables.
    starts_processes: whether it may. Then it has a `/proc` of its own processes, can write to its
        folder, and is another user if root runs it. Else it must limit itself (`confinement`).
    """

    mounts: tuple[str, ...]
    covered: tuple[str, ...]
    environment: dict[str, str]
    starts_processes: bool


def bind(paths: Iterable) -> list[str]:
    return [word for path in paths for word in ("--ro-bind", str(path), str(path))]


def cover(paths: Iterable) -> list[str]:
    """Mount empty folders without room for a file."""
    return [word for path in paths for word in ("--size", "4096", "--tmpfs", str(path))]


def links(*names: str) -> Iterator[str]:
    """Mount folders as on this machine: as links into /usr, or as folders."""
    for path in map(Path, names):
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.is_dir():
            yield from bind([path])
