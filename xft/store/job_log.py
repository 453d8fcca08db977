"""The log of a job: its command writes into it, and the screen shows what is written.

The command has the file itself, so that it loses nothing if the process that shows it is killed.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import BinaryIO

SECONDS_BETWEEN = 0.2
ERROR = re.compile(rb"^[a-z_]+: error: ", re.MULTILINE)  # the first line of a step's last message
# The environment variable that keeps errors off the screen, where the end of the run shows them.
HIDE_ERRORS = "XFT_HIDE_ERRORS"


def link_declared(log: Path) -> None:
    """Let the log that the rule declares lead to the real one, which exists from now on.

    Snakemake deletes the declared one, `<digest>.job.log`, when a job starts.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.open("ab").close()
    link = log.with_suffix(".job.log")
    link.unlink(missing_ok=True)
    link.symlink_to(log.name)


@contextmanager
def shown(log: Path) -> Iterator[BinaryIO]:
    """The empty log, for a command to write into. The screen follows until the command ends."""
    if log.exists():
        os.truncate(log, 0)
    with log.open("ab") as file:
        ended = Event()
        follower = Thread(target=_follow, args=(log, ended))
        follower.start()
        try:
            yield file
        finally:
            ended.set()
            follower.join()


def tell(log: Path, error: str) -> None:
    """Write an error into the log, and onto the screen unless the end of the run shows it."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{error}\n")
    if HIDE_ERRORS not in os.environ:
        print(error, file=sys.stderr)


def _follow(log: Path, ended: Event) -> None:
    """Show whole lines of a log until the command has ended, or up to an error if it is hidden."""
    rest, is_last = b"", False
    with log.open("rb") as file, suppress(OSError):  # such as a screen that is closed
        while not is_last:
            is_last = ended.wait(SECONDS_BETWEEN)
            text = rest + file.read()
            end = len(text) if is_last else text.rfind(b"\n") + 1
            lines, rest = text[:end], text[end:]
            error = ERROR.search(lines) if HIDE_ERRORS in os.environ else None
            sys.stdout.buffer.write(lines[: error.start()] if error else lines)
            sys.stdout.buffer.flush()
            if error:
                return
