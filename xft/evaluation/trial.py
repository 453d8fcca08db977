"""Judges one program by the messages that the runner sent about it. They may hold anything."""

import errno
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from xft.evaluation.execution import TEST_SETS, Garbled, Inputs, parse
from xft.evaluation.judging import Judge, Returned, read_returned
from xft.evaluation.plain_data import decode, dumps

FAILED, REFUSED = "failed", "refused by the sandbox"
# Exceptions and error numbers of code that tries something that the sandbox forbids.
REFUSALS = {"PermissionError", "ConnectionRefusedError", "gaierror"}
REFUSAL_NUMBERS = {errno.EPERM, errno.EACCES, errno.EROFS, errno.ENETUNREACH}


@dataclass(frozen=True)
class Outcome:
    """How far a program is right.

    passed_sets: the number of `TEST_SETS` that passed. call: of the next set, the number of the
    first call that is not right. status: FAILED or REFUSED; None if no message is wrong, but some
    may be missing.
    """

    passed_sets: int
    call: int
    status: str | None


def write_trial(
    file: BinaryIO, form: str, entry_point: str, atol: float, inputs: Inputs, expected: str
) -> None:
    """Write what `judge` needs beside the messages, which follow in the file.

    form, entry_point, atol: see `Judge`. expected: the problem's line of the ground truth.
    """
    about = {"form": form, "entry_point": entry_point, "atol": atol}
    file.write(f"{dumps(about)}\n{inputs.encoded}\n{expected}\n".encode())


def judge(file: BinaryIO) -> Outcome:
    """Judge the messages of a file that `write_trial` began. Raises MemoryError."""
    about, sets, expected = (json.loads(file.readline()) for _ in range(3))
    results = [[read_returned(message) for message in expected[name]] for name in TEST_SETS]
    trial = Trial(about, decode(sets), results)
    return trial.hear(file)


class Trial:
    """The messages about a program that were right so far.

    about: the arguments of `Judge`. sets: the calls of each of `TEST_SETS`. expected: what each of
    them returns.
    """

    def __init__(self, about: dict, sets: list[list], expected: list[list[Returned]]):
        self.about = about
        self.sets = sets
        self.expected = expected
        self.passed_sets = 0
        self.status: str | None = FAILED
        self._begin_set()

    def _begin_set(self) -> None:
        self.call = 0
        self.judge = Judge(**self.about)

    @property
    def calls(self) -> list:
        """The calls of the current set."""
        return self.sets[self.passed_sets] if self.passed_sets < len(TEST_SETS) else []

    def hear(self, lines: Iterator[bytes]) -> Outcome:
        """Take lines up to the first that is wrong or passes the last set."""
        with suppress(Garbled):
            is_right = all(self.take(parse(line)) for line in lines)
            if is_right or self.passed_sets == len(TEST_SETS):
                self.status = None
        return Outcome(self.passed_sets, self.call, self.status)

    def take(self, message: dict) -> bool:
        """Whether the program can still pass more calls after this message. Raises MemoryError."""
        try:
            return self._take(message)
        except MemoryError:
            raise
        except Exception:  # a message of another form, or a value that cannot be compared
            return False

    def _take(self, message: dict) -> bool:
        if "raised" in message:
            refused = message["raised"] in REFUSALS or message.get("errno") in REFUSAL_NUMBERS
            self.status = REFUSED if refused else FAILED
            return False
        if "set" in message:
            return self._end_set()
        return self._judge(read_returned(message))

    def _end_set(self) -> bool:
        if self.call < len(self.calls):
            return False
        self.passed_sets += 1
        self._begin_set()
        return self.passed_sets < len(TEST_SETS)

    def _judge(self, returned: Returned) -> bool:
        if self.call >= len(self.calls):
            return False
        expected = self.expected[self.passed_sets][self.call]
        if not self.judge.accepts(self.calls[self.call], returned, expected):
            return False
        self.call += 1
        return True
