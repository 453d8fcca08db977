"""A child process with a time limit, of whose output only the end is kept."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

LOG_BYTES = 8192
CHUNK_BYTES = 65536
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Ended:
    """How a child ended. status: the exit status, None where it ran out of time."""

    status: int | None
    log: str


def run_child(
    command: Sequence[str],
    *,
    environment: dict[str, str],
    seconds: float,
    inherited: int,
    on_output: Callable[[bytes], None],
) -> Ended:
    """Run `command` for at most `seconds` with one inherited file descriptor.

    `on_output` sees every chunk of its output. The child and its process group are gone on return.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=[inherited],
        start_new_session=True,
    )
    try:
        log = _follow(child, time.monotonic() + seconds, on_output)
        status = child.poll()
    finally:
        _end(child)
    return Ended(status, log.decode(errors="replace"))


def _follow(child: subprocess.Popen, deadline: float, on_output) -> bytes:
    """Read until the child is gone or the deadline is past; return the end of what it wrote.

    The child's end counts, not the output's: a process that it left behind may hold that open.
    """
    log = b""
    while time.monotonic() < deadline:
        gone = child.poll() is not None
        ready, _, _ = select.select([child.stdout], [], [], 0 if gone else POLL_SECONDS)
        chunk = os.read(child.stdout.fileno(), CHUNK_BYTES) if ready else b""
        if chunk:
            log = (log + chunk)[-LOG_BYTES:]
            on_output(chunk)
        elif gone:
            break
        elif ready:
            time.sleep(POLL_SECONDS / 10)
    return log


def _end(child: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
