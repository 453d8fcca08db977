"""Times cases fairly: they run alternately in one process. Tables show medians."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable

import torch


def interleaved(
    cases: dict[str, Callable[[], object]], repeats: int, warmup: int
) -> dict[str, list[float]]:
    """Seconds of each call, by case. The order is A B C A B C ..., after `warmup` untimed rounds.

    The time includes all work on a GPU. Garbage is collected between calls, not within them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    gc.disable()
    try:
        for round_number in range(warmup + repeats):
            for name, case in cases.items():
                gc.collect()
                elapsed = timed(case)
                if round_number >= warmup:
                    seconds[name].append(elapsed)
    finally:
        gc.enable()
    return seconds


def timed(case: Callable[[], object]) -> float:
    """Seconds of one call, with all its work on the GPU."""
    synchronize()
    start = time.perf_counter()
    case()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def relative_speed(seconds: dict[str, list[float]], name: str, baseline: str) -> float:
    """The speed of a case relative to `baseline`: the median over the rounds."""
    rounds = zip(seconds[name], seconds[baseline], strict=True)
    return statistics.median(base / own for own, base in rounds)


def speed_table(seconds: dict[str, list[float]], baseline: str) -> str:
    """Markdown: median and best times, and each case's speed relative to `baseline`."""
    header = ("", "median ms", "best ms", f"speed ({baseline} = 1)")
    rows = [
        (
            name,
            f"{1e3 * statistics.median(times):.1f}",
            f"{1e3 * min(times):.1f}",
            f"{relative_speed(seconds, name, baseline):.3f}",
        )
        for name, times in seconds.items()
    ]
    return markdown_table(header, rows)


def markdown_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table with a first column of text. The other columns are right-aligned."""
    lines = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
