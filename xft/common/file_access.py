"""Reads files that a user or a hub names, and writes files whole.

What is read is a regular file, with a bound on what it holds. What the system refuses, and the user
can correct, gets a message that says what to do.
"""

import errno
import gzip
import os
import resource
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from xft.common.errors import UserError

MAX_BYTES = 4 * 2**30  # of a file that is read whole, unpacked
MOST_BLANK = 10**6  # blank lines in succession
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Errors that the user can correct: no room, missing rights, a file that has disappeared.
USER_ERRORS = {
    *NO_ROOM,
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOENT, errno.ESTALE, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading.

    A pipe would stop the reader, and a device never ends. Raises UserError if the path leads to
    anything else or to nothing, or if the file cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, ValueError):  # a name that no file can have
        if path.is_symlink():
            raise UserError(f"{path} links to {path.readlink()}, which is missing") from None
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise UserError(f"{path} is {kind}, not a file")
    return os.fdopen(descriptor, "rb")


def is_packed(path: Path) -> bool:
    """Whether a file is read as gzip, by its name."""
    return path.suffix.lower() == ".gz"


@contextmanager
def open_unpacked(path: Path) -> Iterator[BinaryIO]:
    """A regular file for reading, unpacked if its name ends in .gz.

    Raises UserError as `open_regular`, or, while it is read, if it is no whole gzip file.
    """
    with open_regular(path) as file:
        if not is_packed(path):
            yield file
            return
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path} is not a whole gzip file: {error}") from None


def check_own(path: Path, folder: Path) -> None:
    """Raise UserError unless `path` is a regular file of the model folder that holds it.

    A file elsewhere, to which a link leads, may be private, and the model's files are copied. The
    files of a model in the hub's cache are links: snapshots/<commit>/x -> ../../blobs/<hash>.
    """
    open_regular(path).close()
    target = path.resolve()
    home = folder.resolve()
    is_cached = home.match("models--*/snapshots/*") and target.parent == home.parents[1] / "blobs"
    if not (is_cached or target.is_relative_to(home)):
        raise UserError(
            f"{path} leads to {target}, out of the model folder. Only the folder's own files are "
            "used: copy the file to this place, or remove the link"
        )


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file, unpacked if its name ends in .gz.

    limit: bytes of the content. Raises UserError if there are more, before they are in memory, or
    if the file is no whole gzip file.
    """
    with open_unpacked(path) as file:
        check_size(path, os.fstat(file.fileno()).st_size, limit)
        # Of a plain file read(limit) would reserve memory for the whole limit.
        content = file.read(limit + 1 if is_packed(path) else -1)
    check_size(path, len(content), limit)
    return content


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """The text of a regular file as `read_bytes` reads it, without a BOM in front.

    Raises UserError also if it is not UTF-8.
    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None


def read_lines(path: Path, longest: int) -> Iterator[bytes | None]:
    """The lines of a regular file, one by one, unpacked if its name ends in .gz.

    None stands for a line of `longest` bytes or more. Raises UserError if all lines have more than
    MAX_BYTES, if there are more than MOST_BLANK blank ones in succession, or if the file is no
    whole gzip file.
    """
    blank = 0
    with open_unpacked(path) as file:
        while line := file.readline(longest):
            whole = line if len(line) < longest else None
            while len(line) == longest and not line.endswith(b"\n"):
                line = file.readline(longest)
                check_size(path, file.tell())
            check_size(path, file.tell())
            blank = blank + 1 if line.isspace() else 0
            if blank > MOST_BLANK:
                raise UserError(
                    f"{path} holds more than {MOST_BLANK:,} blank lines in succession. Remove them"
                )
            yield whole


def check_size(path: Path, size: int, limit: int | None = None) -> None:
    """Raise UserError if what a file holds has more bytes than the limit (None: MAX_BYTES)."""
    limit = MAX_BYTES if limit is None else limit
    if size > limit:
        raise UserError(f"{path} holds more than {limit / 2**20:,.0f} MiB, too much to read")


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link to a file, or to what it links to.

    The file is copied if somebody may still change it, and where no hard link can be made, such as
    on another disk.
    """
    place = source.resolve()
    try:
        if place.stat().st_mode & 0o222:
            raise PermissionError
        target.hardlink_to(place)
    except OSError:
        shutil.copyfile(place, target)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to a temporary file beside `path`, and rename it to `path`.

    Missing parent folders are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path), draft.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def explain(error: Exception) -> str | None:
    """The message for an error that the user can correct; None for other errors."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in USER_ERRORS:
        file = error.filename2 or error.filename
        place = f" ({file})" if file else ""
        return f"{error.strerror}{place}.{way_out(error.errno, file or '.')} Nothing was changed."
    return None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Let an error of the block that finds no room name what it writes: a write itself does not."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            error.filename = error.filename or str(path)
        raise


def way_out(number: int, place: str | Path) -> str:
    """A sentence about the room at a place, and what to do; empty if that is not the error."""
    if number not in NO_ROOM:
        return ""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if number == errno.EFBIG and limit != resource.RLIM_INFINITY:
        return f" A file may have {limit / 1e6:,.1f} MB here: raise this limit (ulimit -f)."
    free = shutil.disk_usage(nearest_folder(Path(place))).free
    return f" The disk has {free / 1e6:,.1f} MB free: make room, or take another disk."


def nearest_folder(place: Path) -> Path:
    """A folder, or the nearest one above it that exists."""
    place = place.absolute()
    return next(path for path in (place, *place.parents) if path.is_dir())
