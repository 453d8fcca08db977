"""Runs work in threads that each wait for a program in a sandbox, and that end together."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

from xft.common.progress import SECONDS_BETWEEN_LINES, Bar, progress

Item, Result = TypeVar("Item"), TypeVar("Result")
SHOWN_NAMES = 3


class Stop:
    """A signal for threads to stop: a descriptor for `select` that is readable once it is set."""

    def __enter__(self) -> "Stop":
        self._reader, self._writer = os.pipe()
        return self

    def set(self) -> None:
        os.write(self._writer, b"x")

    def fileno(self) -> int:
        return self._reader

    def __exit__(self, *_) -> None:
        os.close(self._reader)
        os.close(self._writer)


def work_on(
    items: Sequence[Item],
    work: Callable[[Item, Stop], Result],
    name: Callable[[Item], str],
    *,
    workers: int,
    desc: str,
    unit: str,
) -> list[Result]:
    """The results of `work` for all items, in order, from `workers` threads.

    The progress names items that take long. The first exception stops all threads. It may also be
    one that a signal raises in this thread. `work` must return soon after its `Stop` is set.
    """
    running: dict[int, float] = {}  # start times by the items' numbers

    def run(number: int) -> Result:
        running[number] = time.monotonic()
        try:
            return work(items[number], stop)
        finally:
            del running[number]

    def late() -> list[str]:
        long_ago = time.monotonic() - SECONDS_BETWEEN_LINES
        return [name(items[n]) for n, start in running.copy().items() if start < long_ago]

    with Stop() as stop, progress(desc=desc, total=len(items), unit=unit) as bar:
        pool = ThreadPoolExecutor(workers)
        try:
            futures = [pool.submit(run, number) for number in range(len(items))]
            _wait(futures, bar, late)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # before stop, or threads start more
            stop.set()
            raise
        finally:
            pool.shutdown()
        return [future.result() for future in futures]


def _wait(futures: list[Future], bar: Bar, late: Callable[[], list[str]]) -> None:
    """Wait for all futures. Name late items in the progress. Raises the first exception."""
    ended: SimpleQueue[Future] = SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    left = len(futures)
    while left:
        future = None
        with suppress(Empty):
            future = ended.get(timeout=SECONDS_BETWEEN_LINES)
        bar.set_postfix_str(_waiting(late()), refresh=False)
        if future is None:
            bar.refresh()
        else:
            future.result()
            left -= 1
            bar.update()


def _waiting(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"waiting for {', '.join(names[:SHOWN_NAMES])}{more}"
