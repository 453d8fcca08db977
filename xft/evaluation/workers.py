"""Runs work in threads that each wait for a program in a sandbox, and that end together."""

import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from xft.common.progress import progress

Item, Result = TypeVar("Item"), TypeVar("Result")
Stop = socket.socket  # work must end once it is readable


def work_on(
    items: Sequence[Item], work: Callable[[Item, Stop], Result], *, workers: int, **shown: str
) -> list[Result]:
    """The results of `work` for all items, in order, from `workers` threads.

    shown: `desc` and `unit`, as for `progress`. The first exception stops all threads. It may also
    be one that a signal raises in this thread. `work` must return soon after its `Stop` becomes
    readable.
    """
    stop, end = socket.socketpair()
    with stop, end, ThreadPoolExecutor(workers) as pool:
        try:
            futures = [pool.submit(work, item, stop) for item in items]
            done = as_completed(futures)
            for future in progress(done, total=len(items), at_once=workers, **shown):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # before stop, or threads start more
            end.close()
            raise
        return [future.result() for future in futures]
