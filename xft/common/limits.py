"""Limits the time and the memory of what others wrote and this process runs, such as a template."""

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = resource.RLIMIT_AS


@contextmanager
def limited(seconds: float, size: int) -> Iterator[None]:
    """Raise TimeoutError or MemoryError in a block that takes more than it may.

    seconds: of the CPU, so a busy or a suspended machine changes nothing.
    size: bytes in addition to those that the process has; without effect on macOS.

    Only for the main thread. A signal ends the process after twice the time: Python raises no error
    within one long operation.
    """
    limits, handler = resource.getrlimit(MEMORY), signal.signal(signal.SIGPROF, _stop)
    try:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, 2 * seconds)  # its signal ends the process
            signal.setitimer(signal.ITIMER_PROF, seconds)
            if sys.platform == "linux":
                _limit_memory(size, *limits)
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    finally:  # also if the time is over within the other one
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(MEMORY, limits)
        signal.signal(signal.SIGPROF, handler)


def _stop(*_) -> None:
    raise TimeoutError


def _limit_memory(size: int, soft: int, hard: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    wanted = pages * resource.getpagesize() + size
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(MEMORY, (min([wanted, *known]), hard))
