"""Locks of folders, each with a file that names the process that works in the folder."""

import fcntl
import getpass
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xft.artifacts.files import write_whole
from xft.common.errors import UserError

OWNER = "owner"  # the file, in the folder


@contextmanager
def lock(path: Path) -> Iterator[int]:
    """Hold the lock of a folder or file, and yield its descriptor.

    Raises BlockingIOError if another process holds it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def claimed(folder: Path, work: str) -> Iterator[int]:
    """The lock of a folder, which is made if it is missing. Yields the lock's descriptor.

    A child process that inherits the descriptor keeps the lock. Raises UserError if another process
    works in the folder. work: what it then does, such as "is making results/moe".
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock(folder) as descriptor:
            write_whole(folder / OWNER, this_process())
            yield descriptor
    except BlockingIOError:
        raise UserError(f"{worker(folder)} {work}. Wait until it has ended, or stop it") from None


def occupy(folder: Path, or_else: str) -> int:
    """Lock a folder for the run of this process, by a hidden file in it.

    Returns the descriptor of the lock, which holds until it is closed. Children do not inherit it.
    Raises UserError if another process has the folder. or_else: what its user may do, as sentences.
    """
    owner = folder / f".{OWNER}"
    descriptor = os.open(owner, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"{folder} is in use by {occupant(folder) or 'a process'}. Wait until it has ended. "
            f"{or_else}".rstrip()
        ) from None
    owner.write_text(this_process())
    return descriptor


def occupant(folder: Path) -> str | None:
    """The process that has a folder by `occupy`, in words. None if none of this machine has it."""
    owner = folder / f".{OWNER}"
    return holder(owner, owner) if owner.is_file() else None


def worker(folder: Path) -> str | None:
    """The process that works in a folder, in words. None if no process does."""
    return holder(folder, folder / OWNER) if folder.is_dir() else None


def holder(locked: Path, owner: Path) -> str | None:
    """The process that holds the lock of a path, as a file names it. None if no process does."""
    try:
        with lock(locked):
            return None
    except BlockingIOError:
        text = owner.read_text() if owner.is_file() else ""
        return text or "another process"


def this_process(number: int | None = None) -> str:
    """This process, or its child with a number, in words."""
    return f"process {number or os.getpid()} of {getpass.getuser()} on {platform.node()}"
