"""An array that grows on the disk, for data that does not fit into memory."""

import os
from array import array
from collections.abc import Iterator
from tempfile import TemporaryFile, gettempdir

import numpy as np

BLOCK = 2**21  # values that are read at a time


class DiskArray:
    """A one-dimensional array in a temporary file. A slice of it is a numpy array.

    Parts are appended to it. A part takes eight bytes of memory.

    offsets: part i is [offsets[i] : offsets[i + 1]].
    """

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype)
        self.offsets = array("q", [0])
        self._file = TemporaryFile()  # noqa: SIM115 (it lasts as long as the array)

    def append(self, part: np.ndarray) -> None:
        """Append a part. Raises OSError if the disk is full."""
        try:
            self._file.write(np.ascontiguousarray(part, self.dtype).data)
        except OSError as error:
            error.filename = f"{gettempdir()}; the variable TMPDIR names another folder"
            raise
        self.offsets.append(len(self) + len(part))

    def part(self, place: int) -> np.ndarray:
        return self[self.offsets[place] : self.offsets[place + 1]]

    def __len__(self) -> int:
        return self.offsets[-1]

    def __getitem__(self, places: slice) -> np.ndarray:
        begin, end, _ = places.indices(len(self))
        self._file.flush()
        values = np.empty(max(end - begin, 0), self.dtype)
        if len(values):
            os.preadv(self._file.fileno(), [values.data], begin * self.dtype.itemsize)
        return values


def blocks(values: np.ndarray | DiskArray) -> Iterator[np.ndarray]:
    """The values of an array, in order, as arrays that take little memory."""
    return (values[begin : begin + BLOCK] for begin in range(0, len(values), BLOCK))
