"""Remembers what was computed from files, until they change."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from xft.common.errors import UserError
from xft.common.file_access import write_whole
from xft.common.json_files import read_json

HASHED_WHOLE = 2**28
SAMPLES, SAMPLE_BYTES = 256, 2**16
SETTLED_SECONDS = 2  # a file that changed later may change again within one tick of its clock


class FileHashCache:
    """Values by file. A file's size, times and inode tell whether its value still holds.

    One of the times is that of its last change of status: `cp -p` and `tar` set only the other.

    file: where the values are kept between runs; None to keep them in this process only.
    """

    def __init__(self, file: Path | None = None):
        self.file = file
        self._values: dict[str, list] = {}
        with suppress(UserError):  # missing or damaged
            self._values = read_json(file) if file else {}

    def of(self, path: Path, compute: Callable[[Path], object]) -> object:
        """The JSON value that `compute` gives for a file. Its name tells kinds of values apart."""
        key = f"{compute.__name__} {os.path.abspath(path)}"  # noqa: PTH100 (links are not followed)
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        match self._values.get(key):
            case [known, value] if known == state:
                return value
        value = compute(path)
        if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_SECONDS:
            self._values[key] = [state, value]
        return value

    def save(self) -> None:
        """Keep the values for the next run."""
        if self.file:
            write_whole(self.file, json.dumps(self._values))


def content_hash(path: Path) -> str:
    """SHA-256 of a file; of a file larger than 256 MiB, of its size and 256 samples of 64 KiB.

    The samples are spread evenly from the first bytes to the last. They detect other weights, but
    not always a single changed byte.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= HASHED_WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(str(size).encode())
        for number in range(SAMPLES):
            file.seek(number * (size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
