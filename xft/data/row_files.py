"""Reads files of rows into one sequence, which is on the disk: a file may exceed the memory."""

import json
from array import array
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path

import numpy as np

from xft.common.progress import progress
from xft.config.sections import TokensConfig
from xft.data.conversations import Conversation, Turn
from xft.data.disk_array import DiskArray
from xft.data.instructions import Accept, AnyRow, BadRow, Row, read_rows

FILE_ROWS = 2**32  # a file of `MAX_BYTES` holds fewer rows


class StoredRows(Sequence):
    """Rows in a temporary file. Each is read when it is asked for."""

    def __init__(self):
        self._texts = DiskArray(np.uint8)
        self._places = array("q")
        self.numbers = array("q")

    def append(self, row: AnyRow) -> None:
        turns = [(turn.role, turn.content) for turn in row.turns]
        text = json.dumps([isinstance(row, Row), turns])
        self._places.append(len(self._places))
        self._texts.append(np.frombuffer(text.encode(), np.uint8))
        self.numbers.append(row.number)

    def select(self, keep: Callable[[int], bool]) -> "StoredRows":
        """The rows whose numbers are to be kept, in the same file."""
        kept = [place for place, number in enumerate(self.numbers) if keep(number)]
        selected = copy(self)
        selected._places = array("q", [self._places[place] for place in kept])
        selected.numbers = array("q", [self.numbers[place] for place in kept])
        return selected

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> AnyRow:
        number = self.numbers[place]
        is_row, turns = json.loads(self._texts.part(self._places[place]).tobytes())
        if is_row:
            return Row(*(content for _, content in turns), number)
        return Conversation(tuple(Turn(*turn) for turn in turns), number)


def read_files(
    files: Sequence[Path], options: TokensConfig, accept: Accept | None = None
) -> tuple[StoredRows, list[BadRow]]:
    """The rows of several files, one after the other, each as `read_rows` reads it.

    The rows of file i (from 0) have numbers that begin after i * FILE_ROWS. Raises UserError also
    if `options.limit` is a list of another length.
    """
    limits = options.limits(len(files))
    rows, bad = StoredRows(), []
    for place, (file, limit) in enumerate(zip(files, limits, strict=True)):
        of_file = read_rows(file, options, limit, accept, place * FILE_ROWS)
        for row in progress(of_file, desc=f"read {file}", unit="row"):
            (bad if isinstance(row, BadRow) else rows).append(row)
    return rows, bad


def named(files: Sequence[Path]) -> str:
    """The names of files, for messages."""
    return ", ".join(map(str, files))


def place_of(number: int, files: Sequence[Path]) -> int | str:
    """The number of a row in its file, with the name of the file if there are several."""
    place, row = divmod(number, FILE_ROWS)
    return row if len(files) == 1 else f"{files[place]}: {row}"
