"""Judges one program by the messages that the runner sent about it. They may hold anything."""

import errno
import json
from dataclasses import dataclass
from typing import BinaryIO

from xft.evaluation.execution import TEST_SETS, Inputs, parse
from xft.evaluation.judging import Judge, Returned, read_returned
from xft.evaluation.plain_data import decode, dumps

PASSED, FAILED, REFUSED = "passed", "failed", "refused by the sandbox"
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
    """Judge the messages of a file that `write_trial` began. Raises MemoryError.

    It ends at the first message that is wrong or passes the last set.
    """
    about, sets, expected = (json.loads(file.readline()) for _ in range(3))
    for passed, (name, calls) in enumerate(zip(TEST_SETS, decode(sets), strict=True)):
        right = [read_returned(message) for message in expected[name]]
        call, status = _judge_set(file, Judge(**about), list(zip(calls, right, strict=True)))
        if status != PASSED:
            return Outcome(passed, call, status)
    return Outcome(len(TEST_SETS), 0, None)


def _judge_set(
    lines: BinaryIO, judge: Judge, calls: list[tuple[list, Returned]]
) -> tuple[int, str | None]:
    """The number of right calls of a set, and PASSED or the status of an `Outcome`.

    calls: the arguments of each, and what it returns.
    """
    number = 0
    for line in lines:
        try:
            message = parse(line)
            if "raised" in message:
                refused = message["raised"] in REFUSALS or message.get("errno") in REFUSAL_NUMBERS
                return number, REFUSED if refused else FAILED
            if "set" in message:
                return number, PASSED if number == len(calls) else FAILED
            arguments, expected = calls[number]
            if not judge.accepts(arguments, read_returned(message), expected):
                return number, FAILED
        except MemoryError:
            raise
        except Exception:  # a message of another form, or a value that cannot be compared
            return number, FAILED
        number += 1
    return number, None
