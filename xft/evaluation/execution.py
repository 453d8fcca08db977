"""Runs programs on inputs, each in its own sandbox, and yields what they return as plain data."""

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from xft.common.errors import UserError
from xft.evaluation.plain_data import dumps, encode
from xft.evaluation.sandbox import CLEAN_ENVIRONMENT, Bubblewrap, package_folders
from xft.evaluation.workers import Stop

RUNNER = Path(__file__).with_name("runner.py")
RUNNER_FILES = [RUNNER, *map(RUNNER.with_name, ("plain_data.py", "confinement.py"))]
READY = b'{"ready":true}'
END_OF_SET = b'{"set":'
TEST_SETS = ("base", "plus")  # a program runs on the calls of both, in this order
MAX_LINE_BYTES = 2**17
CHUNK_BYTES = 2**16
STARTS = 3  # attempts to start a sandbox
HASH_SEED = 0  # the order of a set of texts depends on it


@dataclass(frozen=True)
class Limits:
    """The limits of one program, in seconds: for loading, for one call, for all calls of a set."""

    loading: float = 60.0
    call: float = 10.0
    calls: float = 60.0
    memory_bytes: int = 8 * 2**30  # correct solutions need more than 4 GiB


class TimedOut(Exception):
    """A program took longer than its limits allow."""


class Stopped(Exception):
    """A program was ended because its result is no longer needed."""


class _NotStarted(Exception):
    """The runner did not reach the program. The text is the system's message."""


@dataclass(frozen=True)
class Inputs:
    """The argument lists of each of `TEST_SETS`, encoded for the runner, and their number."""

    encoded: str
    calls: int


def encode_inputs(sets: Sequence[Sequence]) -> Inputs:
    """Encode the argument lists of each of `TEST_SETS` for `execute`."""
    rows = [[[encode(value) for value in arguments] for arguments in s] for s in sets]
    return Inputs(dumps(rows), sum(map(len, sets)))


def execute(
    code: str,
    entry_point: str,
    inputs: Inputs,
    *,
    sandbox: Bubblewrap | None,
    limits: Limits,
    stop: Stop,
    hash_seed: int = HASH_SEED,
) -> Iterator[bytes]:
    """Run a program in a sandbox (None: with the user's rights). Yield the runner's messages as
    they come. Each is a line of JSON, or anything else that the program wrote.

    The program ends when the caller closes the iterator, and in any case within `limits.loading`
    plus `limits.calls` for each set. If it dies, or writes a line that is too long for a message,
    the messages end. Raises TimedOut; Stopped once `stop` is readable; UserError if the program
    does not start on this machine.
    """
    confined = sandbox is not None
    program = {"code": code, "entry_point": entry_point, "memory": limits.memory_bytes}
    program |= {"packages": package_folders() if confined else [], "confined": confined}
    command = [sys.executable, "-s", "-P", "-B", str(RUNNER)]
    if sandbox:
        command = sandbox.wrap([str(RUNNER)], readable=RUNNER_FILES)
    environment = CLEAN_ENVIRONMENT | {"PYTHONHASHSEED": str(hash_seed)}
    request = f"{dumps(program)}\n{inputs.encoded}\n"
    lines = inputs.calls + len(TEST_SETS)  # the program itself wrote any further lines
    for _ in range(STARTS):
        try:
            yield from islice(_run(command, environment, request, limits, stop), lines)
            return
        except _NotStarted as error:
            reason = error
    raise UserError(
        f"a program does not start on this machine, tried {STARTS} times: {reason}. Free memory "
        "and processes, and run the same command again"
    )


def _run(
    command: list[str], environment: dict[str, str], request: str, limits: Limits, stop: Stop
) -> Iterator[bytes]:
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as errors:
        asked.write(request.encode())
        asked.seek(0)
        options = {"stdin": asked, "stdout": subprocess.PIPE, "stderr": errors, "env": environment}
        with subprocess.Popen(command, start_new_session=True, **options) as child:
            try:
                lines = _lines(child.stdout.fileno(), limits, stop)
                _wait_until_ready(lines, errors)
                yield from lines
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)


def _wait_until_ready(lines: Iterator[bytes], errors) -> None:
    """Raises _NotStarted if the first line is not READY, which the runner writes."""
    try:
        if next(lines, None) == READY:
            return
        errors.seek(0)
        said = errors.read(2**12).decode(errors="replace").strip()
    except TimedOut:
        said = "it took too long"
    raise _NotStarted(said or "it ended without a message")


def _lines(descriptor: int, limits: Limits, stop: Stop) -> Iterator[bytes]:
    """The lines up to one that is too long. Raises TimedOut if the next does not come in time.

    The time for all calls of a set begins with the first line, and again with a line that ends a
    set. The program may write such lines itself, so they count at most once per set.
    """
    rest, sets_left = b"", len(TEST_SETS)
    call_ends = calls_end = time.monotonic() + limits.loading
    while True:
        seconds_left = max(min(call_ends, calls_end) - time.monotonic(), 0)
        readable = select.select([descriptor, stop], [], [], seconds_left)[0]
        if not readable:
            raise TimedOut
        if stop in readable:
            raise Stopped
        chunk = os.read(descriptor, CHUNK_BYTES)
        *lines, rest = (rest + chunk).split(b"\n")
        if not chunk or max(map(len, (*lines, rest))) > MAX_LINE_BYTES:
            return
        for line in lines:
            call_ends = time.monotonic() + limits.call
            is_first = sets_left == len(TEST_SETS)
            if is_first or (line.startswith(END_OF_SET) and sets_left):
                calls_end = time.monotonic() + limits.calls
                sets_left -= 1
            yield line
