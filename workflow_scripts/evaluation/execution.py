"""Programs run on inputs in a sandbox of their own; what they return comes out as plain data."""

import json
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
from pathlib import Path

from workflow_scripts.evaluation.plain_data import dumps, encode
from workflow_scripts.evaluation.sandbox import CLEAN_ENVIRONMENT, Bubblewrap
from workflow_scripts.evaluation.workers import Stop

RUNNER = Path(__file__).with_name("runner.py")
RUNNER_FILES = [RUNNER, *map(RUNNER.with_name, ("plain_data.py", "no_processes.py"))]
MAX_LINE_BYTES = 2**18
CHUNK_BYTES = 2**16


@dataclass(frozen=True)
class Limits:
    """Of one program. seconds: until it is loaded, for one call, and for all calls of a set."""

    loading: float = 60.0
    call: float = 10.0
    calls: float = 60.0
    memory_bytes: int = 8 * 2**30  # correct solutions need more than 4 GiB


class TimedOut(Exception):
    """A program took longer than its limits allow."""


class Stopped(Exception):
    """A program was ended because nobody needs it any more."""


class Garbled(Exception):
    """A program told what is no message."""


def usable_cpus() -> int:
    """CPUs that this process may use; where the system does not tell (macOS), all there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def encode_inputs(sets: Sequence[Sequence]) -> str:
    """Sets of argument lists as `execute` takes them."""
    return dumps([[[encode(value) for value in arguments] for arguments in s] for s in sets])


def execute(
    code: str,
    entry_point: str,
    inputs: str,
    *,
    sandbox: Bubblewrap | None,
    limits: Limits,
    stop: Stop | None = None,
) -> Iterator[dict]:
    """Run a program in a sandbox (None: with the user's rights) and yield the runner's messages.

    inputs: from `encode_inputs`. Whoever stops listening ends the program. Raises TimedOut, Stopped
    once `stop` is set, and Garbled where the program tells what is no message. A program that dies
    has no further messages.
    """
    program = {"code": code, "entry_point": entry_point, "memory": limits.memory_bytes}
    command = [sys.executable, "-I", "-B", str(RUNNER)]
    if sandbox:
        command = sandbox.wrap(command, readable=RUNNER_FILES)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as request:
        request.write(f"{dumps(program)}\n{inputs}\n")
        request.flush()
        request.seek(0)
        child = subprocess.Popen(
            command,
            stdin=request,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=CLEAN_ENVIRONMENT | {"HOME": "/tmp", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    try:
        yield from _messages(child.stdout.fileno(), _Clock(limits), stop)
    finally:
        _end(child)


class _Clock:
    """The time that is left for the next message."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.call_ends = self.calls_end = time.monotonic() + limits.loading

    def hear(self, message: dict) -> None:
        now = time.monotonic()
        self.call_ends = now + self.limits.call
        if "ready" in message or "set" in message:
            self.calls_end = now + self.limits.calls

    @property
    def seconds_left(self) -> float:
        return max(min(self.call_ends, self.calls_end) - time.monotonic(), 0)


def _messages(descriptor: int, clock: _Clock, stop: Stop | None) -> Iterator[dict]:
    """The messages up to the end. Raises TimedOut where the next is not there in time."""
    rest = b""
    watched = [descriptor, *([stop] if stop else [])]
    while readable := select.select(watched, [], [], clock.seconds_left)[0]:
        if stop in readable:
            raise Stopped
        chunk = os.read(descriptor, CHUNK_BYTES)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise Garbled
        for line in lines:
            message = _parse(line)
            clock.hear(message)
            yield message
    raise TimedOut


def _parse(line: bytes) -> dict:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise Garbled from None
    if not isinstance(message, dict):
        raise Garbled
    return message


def _end(child: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
