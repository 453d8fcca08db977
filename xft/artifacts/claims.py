"""Locks that all machines see which share a folder, in files that name the process that works.

Only regular files are locked, and they are open for writing: NFS knows no locks of folders, and no
locks that exclude others of files that are open for reading alone.
"""

import fcntl
import getpass
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from xft.common.errors import UserError

OWNER = "owner"  # the name of such a file, or how it ends


def lock(file: Path) -> TextIO:
    """Lock a file, which is made if it is missing. The lock holds until what is returned is closed.

    A child process that inherits the descriptor keeps the lock. Raises BlockingIOError if another
    process holds it, or has removed the file in the meantime.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    opened = file.open("a+")
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(opened.fileno()).st_nlink:
            raise BlockingIOError
    except OSError:
        opened.close()
        raise
    return opened


@contextmanager
def claimed(file: Path, work: str) -> Iterator[TextIO]:
    """Hold the lock of a file, as `lock` gives it. The file names this process meanwhile.

    Raises UserError if another process holds it. work: what it then does, such as "is making
    results/moe".
    """
    try:
        held = lock(file)
    except BlockingIOError:
        process = holder(file) or "another process"
        raise UserError(f"{process} {work}. Wait until it has ended, or stop it") from None
    with held:
        file.write_text(this_process())
        try:
            yield held
        finally:
            held.truncate(0)


def occupy(folder: Path, or_else: str) -> TextIO:
    """Lock a folder for the run of this process, by a hidden file in it, as `lock` does.

    Raises UserError if another process has the folder. or_else: what its user may do, as sentences.
    """
    owner = folder / f".{OWNER}"
    try:
        held = lock(owner)
    except BlockingIOError:
        raise _in_use(folder, occupant(folder) or "a process", or_else) from None
    owner.write_text(this_process())
    return held


def check_unoccupied(folder: Path, or_else: str) -> None:
    """Raise what `occupy` raises if another process has the folder, which is left as it is."""
    if process := occupant(folder):
        raise _in_use(folder, process, or_else)


def _in_use(folder: Path, process: str, or_else: str) -> UserError:
    text = f"{folder} is in use by {process}. Wait until it has ended. {or_else}"
    return UserError(text.rstrip())


def occupant(folder: Path) -> str | None:
    """The process that has a folder by `occupy`, in words. None if no process has it."""
    return holder(folder / f".{OWNER}")


def holder(file: Path) -> str | None:
    """The process that holds the lock of a file, in words. None if no process does.

    To ask needs no permission to write: a shared lock can be had by reading, also with NFS.
    """
    try:
        with file.open() as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except (FileNotFoundError, IsADirectoryError):
        return None
    except BlockingIOError:
        return file.read_text() or "another process"


def this_process(number: int | None = None) -> str:
    """This process, or its child with a number, in words."""
    return f"process {number or os.getpid()} of {getpass.getuser()} on {platform.node()}"
