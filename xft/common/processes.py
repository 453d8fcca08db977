"""Spreads work on many items over processes."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from xft.common.progress import progress

PR_SET_PDEATHSIG = 1
FEW = 10_000  # items that take little longer than processes take to start
CHUNK = 250  # items that a process gets at a time
AHEAD = 32  # chunks for each process that are in memory
Item, Result = TypeVar("Item"), TypeVar("Result")
_work: Callable  # in a process of `spread`


def usable_cpus() -> int:
    """The CPUs that this process may use; all CPUs if the system does not say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread(work: Callable[[Item], Result], items: Sequence[Item], **shown: str) -> Iterator[Result]:
    """The results of `work` for all items, in order, from a process for each usable CPU.

    `work`, the items and the results must be picklable. Few of them are in memory at a time. A
    process of torchrun, which has the CPUs of others beside it, works alone. shown: `desc` and
    `unit`, as for `progress`.
    """
    workers = 1 if "RANK" in os.environ or len(items) <= FEW else usable_cpus()
    if workers == 1:
        yield from map(work, progress(items, **shown))
        return
    rest = iter(items)
    with (
        ProcessPoolExecutor(workers, get_context("spawn"), _begin, (work,)) as pool,
        progress(total=len(items), **shown) as bar,
    ):
        while some := list(islice(rest, AHEAD * workers * CHUNK)):
            for result in pool.map(_do, some, chunksize=CHUNK):
                bar.update()
                yield result


def _begin(work: Callable[[Item], Result]) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    end_with_parent()


def _do(item: Item) -> Result:
    return _work(item)


def end_with_parent() -> None:
    """Let the system kill this process if the process that started it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
