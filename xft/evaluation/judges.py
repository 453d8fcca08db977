"""Judges by EvalPlus's rules whether a program returned the right values, in a process for each.

The rules are those of `evalplus.eval.unsafe_execute` of EvalPlus 0.3.1, with its special oracles.
They are applied to the messages that the driver sent about a program, outside the process that ran
it. The messages may hold anything. EvalPlus always counts HumanEval/32 as failed. Here it passes
if EvalPlus's oracle holds.

A server forks a process for each trial that comes, which judges it within limits and ends. Such a
process holds the values of its own trial alone, and can open no file and no socket.

The server is not that of jobs (`xft/store/forks.py`): a job gets a command, an environment, files
and a process that waits for it, and a trial must have none of these.
"""

import errno
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from dataclasses import astuple, dataclass
from numbers import Number
from pathlib import Path
from typing import BinaryIO

from xft.common.errors import UserError
from xft.evaluation.confinement import end_with_parent, forbid_system_calls, limit_resources
from xft.evaluation.plain_data import ValueHash, decode, dumps, value_hash
from xft.evaluation.scoring import ERROR, FAILED, PASSED, REFUSED, TEST_SETS, Stop, Stopped

MAX_LINE_BYTES = 2**17  # of a message
# Exceptions and error numbers of code that tries something that the sandbox forbids.
REFUSALS = {"PermissionError", "ConnectionRefusedError", "gaierror"}
REFUSAL_NUMBERS = {errno.EPERM, errno.EACCES, errno.EROFS, errno.ENETUNREACH}
FLOAT_ATOL = 1e-6  # if the expected value is a float and the problem has no tolerance
RTOL = 1e-7
# The problems whose oracles EvalPlus finds by the names of their functions.
OF_MBPP = (2, 7, 111, 140, 164, 232, 249, 295, 558, 579, 581, 737, 769, 787, 794)
WITH_ORACLE = {"HumanEval/32", *(f"Mbpp/{number}" for number in OF_MBPP)}


@dataclass(frozen=True)
class Returned:
    """The value that a call returned, or the `ValueHash` of a large value.

    is_exact_type: False for an instance of a subclass of the value's type.
    """

    value: object
    is_exact_type: bool = True

    def equals(self, other: "Returned") -> bool:
        """Whether Python's == holds."""
        if isinstance(self.value, ValueHash) or isinstance(other.value, ValueHash):
            return _hash_of(self.value) == _hash_of(other.value)
        return bool(self.value == other.value)


def _hash_of(value: object) -> ValueHash:
    return value if isinstance(value, ValueHash) else value_hash(value)


def read_returned(message: dict) -> Returned:
    """The value in a message of the driver. Raises ValueError if the message holds none."""
    match message:
        case {"digest": str(known)}:
            return Returned(ValueHash(known))
        case {"value": {"like": content}}:
            return Returned(decode(content), is_exact_type=False)
        case {"value": content}:
            return Returned(decode(content))
    raise ValueError("no value")


class Rules:
    """Judges a set of calls in order. A tolerance that one call needs holds for all later calls.

    task_id, entry_point, atol: the problem's.
    """

    def __init__(self, task_id: str, entry_point: str, atol: float):
        self.oracle = entry_point if task_id in WITH_ORACLE else None
        self.atol = atol

    def accepts(self, arguments: list, returned: Returned, expected: Returned) -> bool:
        """Whether `returned` is right for a call with these arguments.

        Any exception means a value that cannot be compared, such as text with a number. MemoryError
        means one that is too large for this process.
        """
        from evalplus.eval import is_floats

        if self.oracle == "find_zero":
            from evalplus.eval._special_oracle import _poly

            return abs(_poly(*arguments, returned.value)) <= self.atol
        is_right = self._is_equal(arguments, returned, expected)
        if self.atol == 0 and is_floats(expected.value):
            self.atol = FLOAT_ATOL
        return is_right or (self.atol != 0 and _is_close(returned, expected, self.atol))

    def _is_equal(self, arguments: list, returned: Returned, expected: Returned) -> bool:
        """Whether `returned` is right without a tolerance, or by the problem's oracle."""
        if self.oracle is None:
            return returned.equals(expected)
        from evalplus.eval import _special_oracle as oracles

        value = returned.value
        if self.oracle == "are_equivalent":
            return True
        if self.oracle == "sum_div" and value == 0:
            return True
        if self.oracle == "surface_Area":
            is_near = abs(value - oracles._surface_Area(*arguments)) <= self.atol
            return is_near or returned.equals(expected)
        if self.oracle == "digit_distance_nums":
            distance = oracles._digit_distance_nums(*arguments)
            if value == distance:
                return True
        if self.oracle in oracles.MBPP_OUTPUT_SET_EQ_TASKS:
            return set(value) == set(expected.value)
        if self.oracle in oracles.MBPP_OUTPUT_NOT_NONE_TASKS:
            truth = value if isinstance(value, bool) else value is not None
            return truth == (expected.value is not None)
        return returned.equals(expected)


def _is_close(returned: Returned, expected: Returned, atol: float) -> bool:
    import numpy as np

    value = returned.value
    wanted = expected.value
    if isinstance(wanted, ValueHash) or not returned.is_exact_type:
        return False
    if type(value) is not type(wanted):
        return False
    if isinstance(wanted, list | tuple) and len(value) != len(wanted):
        return False
    return _is_numeric(value) and bool(np.allclose(value, wanted, rtol=RTOL, atol=atol))


def _is_numeric(value) -> bool:
    """Whether nested lists and tuples hold only numbers.

    numpy gives each text of a list the size of the longest one, and compares none of them.
    """
    if isinstance(value, list | tuple):
        return all(map(_is_numeric, value))
    return isinstance(value, Number) or hasattr(value, "ndim")


@dataclass(frozen=True)
class Outcome:
    """How far a program is right.

    passed_sets: the number of `TEST_SETS` that passed.
    call: of the next set, the number of the first call that is not right.
    status: FAILED for a wrong value; ERROR for an exception, or a process that ended before all
    calls; REFUSED for an exception that the sandbox caused; None if no message is wrong, but some
    may be missing.
    """

    passed_sets: int
    call: int
    status: str | None


def write_trial(
    file: BinaryIO, task_id: str, entry_point: str, atol: float, encoded: str, expected: str
) -> None:
    """Write what `judge` needs beside the messages, which follow in the file.

    task_id, entry_point, atol: see `Rules`.
    encoded: the argument lists of each of `TEST_SETS`, as the driver gets them.
    expected: the problem's line of the ground truth.
    """
    problem = {"task_id": task_id, "entry_point": entry_point, "atol": atol}
    file.write(f"{dumps(problem)}\n{encoded}\n{expected}\n".encode())


def judge(file: BinaryIO) -> Outcome:
    """Judge the messages of a file that `write_trial` began. Raises MemoryError.

    It ends at the first message that is wrong or passes the last set.
    """
    problem = json.loads(file.readline())
    sets = json.loads(file.readline())
    expected = json.loads(file.readline())
    for passed, (name, calls) in enumerate(zip(TEST_SETS, decode(sets), strict=True)):
        values = [read_returned(message) for message in expected[name]]
        pairs = list(zip(calls, values, strict=True))
        right, status = _judge_set(file, Rules(**problem), pairs)
        if status != PASSED:
            return Outcome(passed, right, status)
    return Outcome(len(TEST_SETS), 0, None)


def _judge_set(
    lines: BinaryIO, rules: Rules, calls: list[tuple[list, Returned]]
) -> tuple[int, str | None]:
    """The number of right calls of a set, and PASSED or the status of an `Outcome`.

    calls: the arguments of each, and what it must return.
    """
    number = 0
    for line in lines:
        if len(line) > MAX_LINE_BYTES or not line.endswith(b"\n"):
            return number, None
        try:
            message = json.loads(line)
            if "raised" in message:
                refused = message["raised"] in REFUSALS or message.get("errno") in REFUSAL_NUMBERS
                return number, REFUSED if refused else ERROR
            if "set" in message:
                return number, PASSED if number == len(calls) else ERROR
            arguments, expected = calls[number]
            if not rules.accepts(arguments, read_returned(message), expected):
                return number, FAILED
        except MemoryError:
            raise
        except Exception:  # a message of another form, or a value that cannot be compared
            return number, FAILED
        number += 1
    return number, None


PROJECT = str(Path(__file__).parents[2])
SERVE = """
import sys
sys.path.insert(0, sys.argv[1])
from xft.evaluation import judges
judges.serve(*map(int, sys.argv[2:]))
"""
MEMORY_BYTES = 2 * 2**30  # of address space, for one trial
SECONDS = 30  # of processor time, for one trial; EvalPlus's problems need less than 0.1
PATIENCE = 4  # seconds on the clock for each second of processor time
REPLY_BYTES = 2**10
# Threads do not survive a fork.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
ENDED = (
    "the process that judges solutions has ended. Free memory and processes, and run the same "
    "command again: the solutions are saved"
)


class Judges:
    """Judges trials in processes while the context is open, from any thread.

    confined: whether the processes have only the system calls of `confinement`.
    """

    def __init__(self, confined: bool):
        self._confined = confined

    def __enter__(self) -> "Judges":
        self._control, theirs = socket.socketpair()
        python = [sys.executable, "-P", "-B", "-W", "ignore", "-c", SERVE]
        limits = [str(int(self._confined)), str(MEMORY_BYTES), str(SECONDS)]
        environment = os.environ | ENVIRONMENT
        with theirs:
            self._server = subprocess.Popen(
                [*python, PROJECT, *limits], stdin=theirs, env=environment, start_new_session=True
            )
        return self

    def __exit__(self, *_) -> None:
        self._control.close()
        self._server.kill()
        self._server.wait()

    def outcome(self, trial: BinaryIO, stop: Stop) -> Outcome | None:
        """Judge a file of `write_trial`, from its beginning. None: it takes more than the limits.

        Raises Stopped once `stop` is readable, and UserError if the server has ended.
        """
        trial.seek(0)
        from_server, to_us = os.pipe()
        with os.fdopen(from_server) as reader:
            try:
                with os.fdopen(to_us, "w") as writer:
                    socket.send_fds(self._control, [b"\n"], [trial.fileno(), writer.fileno()])
            except ConnectionError:
                raise UserError(ENDED) from None
            readable, _, _ = select.select([reader, stop], [], [])
            if stop in readable:
                raise Stopped
            reply = os.read(reader.fileno(), REPLY_BYTES)
        if not reply and self._server.poll() is not None:
            raise UserError(ENDED)
        return Outcome(*json.loads(reply)) if reply else None


def serve(confined: int, memory: int, seconds: int) -> None:
    """Judge what comes on standard input, a socket, until it is closed.

    Each byte on it brings two descriptors: a file of `write_trial`, and a pipe for the outcome as
    JSON.

    confined, memory, seconds: as for `limit`.
    """
    import evalplus.eval  # noqa: F401 (judging needs it, and a trial's process can import nothing)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes the processes that end
    control = socket.socket(fileno=0)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            try:
                limit(confined, memory, seconds)
                answer(*descriptors)
            finally:
                os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def limit(confined: int, memory: int, seconds: int) -> None:
    """Limit this process.

    confined: whether it has only the system calls of `confinement`.
    memory: bytes of address space.
    seconds: of processor time, and `PATIENCE` times as many on the clock.
    """
    end_with_parent()
    signal.alarm(PATIENCE * seconds)
    limit_resources(memory, files=0)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    if confined:
        forbid_system_calls()


def answer(trial: int, channel: int) -> None:
    """Judge a trial, and write its outcome."""
    with os.fdopen(trial, "rb") as file:
        outcome = judge(file)
    os.write(channel, json.dumps(astuple(outcome)).encode())
