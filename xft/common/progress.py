"""Messages and progress of a step. Each line begins with the job's name.

Progress is a bar on a terminal. In a log file it is an occasional line with the time left, of the
form LINE_FORMAT, which `last_progress` reads again.
"""

import os
import re
import sys
from string import Formatter

from tqdm import tqdm

from xft.common.foreign_text import printable

JOB = "XFT_JOB"  # the environment variable with a job's name
SECONDS_BEFORE_FIRST = 5
SECONDS_BETWEEN_LINES = 10
LINE_FORMAT = (
    "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} elapsed, {remaining} left, {rate_fmt}{postfix}"
)
# What each field of LINE_FORMAT may be, as a regular expression.
FIELDS = {
    "desc": r".*",
    "n_fmt": r"\S+",
    "total_fmt": r"\S+",
    "unit": r"\w+",
    "elapsed": r"\S+",
    "remaining": r"\S+",
    "rate_fmt": r"[^,\n]*",
    "postfix": r".*",
}

_job = ""  # set by `cli.running.run` in a process that works for one job


def name_job(step: str) -> None:
    """Put the name of the step, or of the workflow's job, in front of all later lines."""
    global _job
    _job = job_name() or step


def job_name() -> str | None:
    """The name of the workflow's job that this process works for; None by hand."""
    return os.environ.get(JOB)


def say(text: str) -> None:
    """Print a line on stderr. If stderr has no reader any more, all later lines are discarded.

    Control characters are shown as escapes: the text may quote what a file says.
    """
    _print(labelled(printable(text)))


def labelled(text: str) -> str:
    """A line with the name of the job in front of it."""
    return f"{_job}: {text}" if _job else text


def _print(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def close_bars() -> None:
    """End all bars, so that they print nothing after the next line."""
    for bar in list(getattr(Bar, "_instances", ())):
        bar.close()


class LineStream:
    """A stream on stderr that prints each refresh of a tqdm bar as its own line."""

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
    """A bar on a terminal. If stderr is no terminal, lines at least ten seconds apart.

    Nothing is shown in the first five seconds. No time left is shown without a total, or before
    `at_once` items are done, the number that is worked on at the same time. The line of the last
    item is printed once.
    """

    def __init__(self, iterable=None, at_once: int = 1, **options):
        self.at_once = at_once
        self.is_log = not sys.stderr.isatty()
        self.printed = -1  # the number of items that the last line tells
        look = {"delay": SECONDS_BEFORE_FIRST, "miniters": 0, "smoothing": 0}
        if self.is_log:
            look["file"] = LineStream()
            look["bar_format"] = LINE_FORMAT
            look["mininterval"] = SECONDS_BETWEEN_LINES
            look["maxinterval"] = SECONDS_BETWEEN_LINES
            look["position"] = 0  # without it tqdm moves the cursor for a second bar
        else:
            look["dynamic_ncols"] = True
        super().__init__(iterable, **look, **options)

    @property
    def format_dict(self):
        values = super().format_dict
        is_unknown = self.total is None or self.n - self.initial <= self.at_once
        if values["bar_format"] and is_unknown:
            values["bar_format"] = values["bar_format"].replace("{remaining}", "?")
        return values

    def display(self, *args, **options):
        is_early = self.delay > 0 and self._time() < self.start_t + self.delay
        is_last = self.disable or self.n == self.total  # closing a bar disables it
        if is_early or (self.is_log and is_last and self.n == self.printed):
            return
        self.printed = self.n
        super().display(*args, **options)


def _line_pattern() -> re.Pattern[str]:
    """The regular expression of a line of LINE_FORMAT, with a group for each of its fields."""
    parts = []
    for text, field, _, _ in Formatter().parse(LINE_FORMAT):
        parts.append(re.escape(text))
        if field is not None:
            parts.append(f"(?P<{field}>{FIELDS[field]})")
    return re.compile("^" + "".join(parts) + "$", re.MULTILINE)


LINE = _line_pattern()


def last_progress(log: str) -> str | None:
    """The last line of progress in a log, in words; None if there is no such line."""
    lines = list(LINE.finditer(log))
    if not lines:
        return None
    return "{unit} {n_fmt} of {total_fmt}, {remaining} left{postfix}".format(
        **lines[-1].groupdict()
    )


def progress(iterable=None, *, desc: str, **options) -> Bar:
    """A bar on stderr. options: tqdm's, such as total and unit, and those of `Bar`.

    Use `set_postfix(..., refresh=False)`: other calls each print a line.
    """
    return Bar(iterable, desc=labelled(desc), **options)
