"""Spreads work on many items over processes."""

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from xft.common.progress import progress

FEW = 10_000  # items that take little longer than processes take to start
CHUNK = 1_000  # items that a process gets at a time
Item, Result = TypeVar("Item"), TypeVar("Result")


def usable_cpus() -> int:
    """The CPUs that this process may use; all CPUs if the system does not say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread(work: Callable[[Item], Result], items: Sequence[Item], **shown: str) -> list[Result]:
    """The results of `work` for all items, in order, from a process for each usable CPU.

    `work`, the items and the results must be picklable. A process of torchrun, which has the CPUs
    of others beside it, works alone. shown: `desc` and `unit`, as for `progress`.
    """
    workers = 1 if "RANK" in os.environ or len(items) <= FEW else usable_cpus()
    if workers == 1:
        return list(map(work, progress(items, **shown)))
    ignore = signal.SIGINT, signal.SIG_IGN  # this process ends the others
    with ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, ignore) as pool:
        done = pool.map(work, items, chunksize=CHUNK)
        return list(progress(done, total=len(items), **shown))
