"""Threads that each wait for a program in a sandbox, and that end together."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from workflow_scripts.progress import SECONDS_BETWEEN_LINES, Bar, progress

Item, Result = TypeVar("Item"), TypeVar("Result")
SHOWN_NAMES = 3


class Stop:
    """Tells threads to stop: a descriptor for `select` that becomes readable once it is set."""

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
    """What `work` gives for each item, in order; so many threads compute it.

    The progress names items that take long. The first exception ends everything, also one that a
    signal raises in this thread: `work` must return soon after its `Stop` is set.
    """
    starts: dict[int, float] = {}

    def start(number: int) -> Result:
        starts[number] = time.monotonic()
        return work(items[number], stop)

    with Stop() as stop, progress(desc=desc, total=len(items), unit=unit) as bar:
        pool = ThreadPoolExecutor(workers)
        try:
            futures = [pool.submit(start, number) for number in range(len(items))]
            _wait(futures, bar, lambda number: name(items[number]), starts)
        except BaseException:
            stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return [future.result() for future in futures]


def _wait(
    futures: list[Future], bar: Bar, name: Callable[[int], str], starts: dict[int, float]
) -> None:
    """Wait for all, and name in the progress what runs for long. Raises what the first one does."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, SECONDS_BETWEEN_LINES, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        long_ago = time.monotonic() - SECONDS_BETWEEN_LINES
        late = [n for n, start in starts.copy().items() if start < long_ago]
        late = [name(number) for number in late if not futures[number].done()]
        bar.set_postfix_str(_waiting(late), refresh=False)
        if done:
            bar.update(len(done))
        else:
            bar.refresh()


def _waiting(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"waiting for {', '.join(names[:SHOWN_NAMES])}{more}"
