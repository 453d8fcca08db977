"""Messages for what the system refuses and the user can correct."""

import errno
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xft.common.errors import UserError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Errors that the user can correct: no room, missing rights, a file that has disappeared.
USER_ERRORS = {
    *NO_ROOM,
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOENT, errno.ESTALE, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


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
