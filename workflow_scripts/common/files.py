"""Opens files that a user or a hub names: regular files, with a bound on what they hold."""

import errno
import gzip
import os
import stat
import zlib
from pathlib import Path
from typing import BinaryIO

from workflow_scripts.common.errors import UserError

MAX_BYTES = 4 * 2**30  # of a file that is read whole, unpacked
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# The system's errors for a path that leads to no regular file: a socket, a device without a driver,
# a link that leads to itself.
FAULTS = {errno.ENXIO: "a socket", errno.ENODEV: "a device", errno.ELOOP: "a link to itself"}


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading.

    A pipe would stop the reader, and a device never ends. Raises UserError if the path leads to
    anything else or to nothing.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(f"{path} links to {path.readlink()}, which is missing") from None
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        if error.errno in FAULTS:
            raise UserError(f"{path} is {FAULTS[error.errno]}, not a file") from None
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise UserError(f"{path} is {KINDS.get(stat.S_IFMT(mode), 'special')}, not a file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file, unpacked if its name ends in .gz.

    limit: bytes of the content. Raises UserError if there are more, before they are in memory, or
    if the file is no whole gzip file.
    """
    with open_regular(path) as file:
        return unpack(file, limit, path) if path.suffix == ".gz" else _read(file, limit, path)


def unpack(packed: BinaryIO, limit: int, name: object) -> bytes:
    """The content of a gzip file. limit: of its bytes. name: for the message of a UserError."""
    try:
        with gzip.GzipFile(fileobj=packed) as file:
            return _read(file, limit, name)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name} is not a whole gzip file: {error}") from None


def _read(file: BinaryIO, limit: int, name: object) -> bytes:
    content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{name} holds more than {limit / 2**20:,.0f} MiB, too much to read")
    return content
