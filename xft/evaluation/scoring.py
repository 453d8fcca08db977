"""The statuses of solutions, and the threads that wait for their programs and end together."""

import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TypeVar

from xft.common.progress import progress

PASSED = "passed"
FAILED = "failed"
ERROR = "error"
REFUSED = "refused by the sandbox"
TIMED_OUT = "timed out"
NO_CODE = "empty"
TOO_COSTLY = "too costly to judge"
COMPILE_ERROR = "compile error"
CUT_OFF = "cut off"
OUTCOMES = (PASSED, FAILED, TIMED_OUT, ERROR, COMPILE_ERROR, NO_CODE, CUT_OFF)  # in results
TEST_SETS = ("base", "plus")  # a solution is judged on both, in this order
Item = TypeVar("Item")
Result = TypeVar("Result")
Stop = socket.socket  # work must end once it is readable
SIGNAL_SECONDS = 0.5  # at most, until a signal that came just before a wait is handled


@dataclass(frozen=True)
class Statuses:
    """The statuses of a solution: PASSED, FAILED, TIMED_OUT, ERROR, REFUSED, TOO_COSTLY,
    COMPILE_ERROR or NO_CODE.

    base: on the original tests.
    plus: on the original tests and EvalPlus's tests together.
    failed_call: the arguments of the first call that failed, if there is one.
    """

    base: str
    plus: str
    failed_call: str | None = None


class Stopped(Exception):
    """Work was ended because its result is no longer needed."""


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
            done = _as_they_end(futures)
            for future in progress(done, total=len(items), at_once=workers, **shown):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # before stop, or threads start more
            end.close()
            raise
        return [future.result() for future in futures]


def score(
    items: Sequence[Item],
    judge: Callable[[Item, bool, Stop], tuple[Result, bool]],
    *,
    workers: int,
    unit: str,
) -> list[Result]:
    """The result of `judge` for each item, in order.

    An item that took too long is judged again at the end, with no other at the same time, whatever
    the result was: a program must not learn from this which answers are right.

    judge: gives an item's result, and whether the item took too long. Its second argument is
    whether the item is judged again.
    """

    def judge_first(item: Item, stop: Stop) -> tuple[Result, bool]:
        return judge(item, False, stop)

    def judge_again(item: Item, stop: Stop) -> tuple[Result, bool]:
        return judge(item, True, stop)

    judged = work_on(items, judge_first, workers=workers, desc="score", unit=unit)
    late = [place for place, (_, is_late) in enumerate(judged) if is_late]
    again = [items[place] for place in late]
    results = work_on(again, judge_again, workers=1, desc="score again, alone", unit=unit)
    for place, result in zip(late, results, strict=True):
        judged[place] = result
    return [result for result, _ in judged]


def _as_they_end(futures: Sequence[Future]) -> Iterator[Future]:
    """The futures in the order of their ends, as `as_completed` gives them.

    Python handles a signal between two instructions. One that comes between the last of them and
    the wait for a lock would be handled after that wait, so this does not wait for long.
    """
    ended = SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    for _ in futures:
        future = None
        while future is None:
            with suppress(Empty):
                future = ended.get(timeout=SIGNAL_SECONDS)
        yield future
