"""What a step says while it works, each line with its job's name: messages, and progress.

Progress is a bar on a terminal, and an occasional line in a log file, with the time left.
"""

import os
import re
import sys
from pathlib import Path

from tqdm import tqdm

SECONDS_BEFORE_FIRST = 5
SECONDS_BETWEEN_LINES = 10
LINE_FORMAT = (
    "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} elapsed, {remaining} left, {rate_fmt}{postfix}"
)


_step = _job = ""  # of a process that works for one job: `cli.run` says so


def name_job(step: str) -> None:
    """Put the step's name before all lines to come."""
    global _step, _job
    _step = _job = step


def name_output(out: Path) -> None:
    """Put the output's name behind that of the step, if there is one and it is another."""
    global _job
    name = re.sub(r"\.(json|jsonl|csv)$", "", out.name)
    _job = f"{_step} {name}" if _step and name != _step else _step


def say(text: str) -> None:
    """Print a line on stderr. If nobody reads stderr any more, nothing is printed from then on."""
    _print(_labelled(text))


def _labelled(text: str) -> str:
    return f"{_job}: {text}" if _job else text


def _print(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def close_bars() -> None:
    """End all bars, so that nothing of theirs comes after what is printed next."""
    for bar in list(getattr(Bar, "_instances", ())):
        bar.close()


class LineStream:
    """A stream on stderr on which each refresh of a tqdm bar is a line of its own."""

    def __init__(self):
        self.previous = ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self.previous:
            _print(line)
            self.previous = line

    def flush(self) -> None:
        """Nothing: each line is flushed when it is written."""


class Bar(tqdm):
    """A bar on a terminal, or lines at least ten seconds apart where stderr is no terminal.

    What takes less than five seconds shows nothing, whoever asks for a refresh.
    """

    def __init__(self, iterable=None, **options):
        if sys.stderr.isatty():
            look = {"dynamic_ncols": True}
        else:
            look = {
                "file": LineStream(),
                "mininterval": SECONDS_BETWEEN_LINES,
                "maxinterval": SECONDS_BETWEEN_LINES,
                "bar_format": LINE_FORMAT,
                "position": 0,  # or tqdm moves the cursor for a second bar
            }
        super().__init__(iterable, delay=SECONDS_BEFORE_FIRST, **look, **options)

    def display(self, *args, **options):
        if self.delay <= 0 or self._time() >= self.start_t + self.delay:
            super().display(*args, **options)


def progress(
    iterable=None, *, desc: str, total: int | None = None, unit: str = "it", **options
) -> Bar:
    """A bar on stderr. Use `set_postfix(..., refresh=False)`, or every call prints a line."""
    return Bar(iterable, desc=_labelled(desc), total=total, unit=unit, **options)
