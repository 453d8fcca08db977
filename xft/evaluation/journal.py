"""Keeps the finished completions of an interrupted generation, in a file of JSON lines.

The first line identifies the run.
"""

import fcntl
import json
import os
from pathlib import Path

from xft.common.errors import UserError
from xft.evaluation.generation import Completion


class Journal:
    """The completions of a run, each written to the disk as soon as it is complete.

    The file of another run is replaced. Raises UserError if another process writes the same file.

    run: JSON values that determine the completions.
    finished: the completions by number.
    """

    def __init__(self, path: Path, run: dict):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(f"{path} is in use: another process evaluates for it now") from None
        self.finished = self._read(run)

    def _read(self, run: dict) -> dict[int, Completion]:
        """The completions by number. Text after the last complete line is removed."""
        self._file.seek(0)
        first, *lines = self._file.read().split("\n")
        finished, sound = {}, [json.dumps(run, sort_keys=True)]
        if first == sound[0]:
            for line in lines[:-1]:  # an incomplete line has no end
                number, *fields = json.loads(line)
                finished[number] = Completion(*fields)
                sound.append(line)
        self._file.truncate(0)
        self._write("\n".join(sound))
        return finished

    def add(self, number: int, completion: Completion) -> None:
        """Keep a completion."""
        self.finished[number] = completion
        self._write(json.dumps([number, completion.text, completion.finish]))

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def remove(self) -> None:
        """Remove the file: the completions are no longer needed."""
        self.path.unlink()
        self._file.close()
