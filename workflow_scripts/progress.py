"""Progress with time left: a bar on a terminal, an occasional line in a log file."""

import sys

from tqdm import tqdm

SECONDS_BEFORE_FIRST = 5
SECONDS_BETWEEN_LINES = 10
LINE_FORMAT = (
    "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} elapsed, {remaining} left, {rate_fmt}{postfix}"
)


class LineStream:
    """A stream on stderr on which each refresh of a tqdm bar is a line of its own."""

    def __init__(self):
        self.previous = ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self.previous:
            print(line, file=sys.stderr, flush=True)
            self.previous = line

    def flush(self) -> None:
        sys.stderr.flush()


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
    return Bar(iterable, desc=desc, total=total, unit=unit, **options)
