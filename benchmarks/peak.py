"""Measures the peak memory of work that runs in its own process, from outside."""

import multiprocessing
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SECONDS_BETWEEN_SAMPLES = 0.001


@dataclass(frozen=True)
class Observed:
    """Measurements of a piece of work.

    peak: its anonymous memory in bytes, above the memory before it; whole: with the memory before
    it. family: anonymous memory of the process and all processes that it starts, if requested.
    Pages that a fork shares count twice.
    """

    peak: int
    whole: int
    seconds: float
    family: int = 0


def peak_memory(prepare: Callable[[], Callable[[], object]]) -> int:
    """The peak of `observe`."""
    return observe(prepare).peak


def observe(prepare: Callable[[], Callable[[], object]], with_family: bool = False) -> Observed:
    """Run `prepare()()` in a new process, and observe the second call.

    The memory after `prepare()`, such as imports, does not count. Anonymous memory is RssAnon of
    /proc/PID/status: memory-mapped files are page cache and do not count. `prepare` must be
    picklable. Exits with a message if the process fails.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(prepare, theirs))
    process.start()
    theirs.close()
    try:
        ours.recv()
    except EOFError:
        sys.exit("a process failed before its work began")
    before = peak = anonymous_memory(process.pid)
    family = 0
    start = time.perf_counter()
    ours.send("go")
    while process.is_alive():
        peak = max(peak, anonymous_memory(process.pid))
        if with_family:
            family = max(family, sum(map(anonymous_memory, _family(process.pid))))
        time.sleep(SECONDS_BETWEEN_SAMPLES)
    if process.exitcode != 0:
        sys.exit("a process failed during its work")
    return Observed(peak - before, peak, time.perf_counter() - start, family)


def _run(prepare: Callable[[], Callable[[], object]], pipe) -> None:
    work = prepare()
    pipe.send("prepared")
    pipe.recv()
    work()


def _family(pid: int) -> list[int]:
    """A process and all processes that it started, directly or not."""
    with suppress(psutil.NoSuchProcess):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []


def anonymous_memory(pid: int) -> int:
    """RssAnon of a process in bytes; 0 if it has ended."""
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
