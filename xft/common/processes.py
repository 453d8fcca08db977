"""Spreads work on many items over processes."""

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from xft.common.progress import progress

FEW = 4_000  # items that take no longer than processes take to start
CHUNK = 500  # items that a process gets at a time
Item, Result = TypeVar("Item"), TypeVar("Result")

_work: Callable  # in a process of `spread`


def usable_cpus() -> int:
    """The CPUs that this process may use; all CPUs if the system does not say (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, **shown: str
) -> list[Result]:
    """The results of `work` for all items, in order, from `workers` processes.

    `work`, the items and the results must be picklable. The results are the same for every number.
    shown: `desc` and `unit`, as for `progress`.
    """
    if workers == 1 or len(items) <= FEW:
        return list(map(work, progress(items, **shown)))
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (work,)) as pool:
        done = pool.map(_call, items, chunksize=CHUNK)
        return list(progress(done, total=len(items), **shown))


def _begin(work: Callable) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others


def _call(item: Item) -> Result:
    return _work(item)
