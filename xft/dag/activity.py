"""Finds out by its files what became of a job: it runs, it failed, or it was cut off.

A job runs if a process of this machine has its log open for writing. The `tee` of each rule does
this as long as the job runs. Processes of other machines cannot be seen. There a training or an
evaluation counts as running while its log changes.
"""

import platform
import re
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from xft.artifacts.manifest import manifest_path
from xft.cli.running import failure, without_torchrun
from xft.common.progress import last_progress
from xft.dag.places import log_path
from xft.dag.wanted import Wanted
from xft.evaluation.samples import journal_path
from xft.training.checkpoints import OWNER_FILE, step_of

FRESH_SECONDS = 300  # a job of another machine is over if its log has not changed for longer
OWNER = re.compile(r"process \d+ on (.*)")
TRACEBACK = re.compile(r"^Traceback \(most recent call last\):", re.MULTILINE)


class Phase(Enum):
    """What became of a job."""

    RUNNING = "running"
    FAILED = "failed"
    CUT_OFF = "cut off"


@dataclass(frozen=True)
class Activity:
    """A job that has begun. text: its progress, or the message of its failure and its log."""

    place: Path
    phase: Phase
    text: str


def find_activities(jobs: Iterable[Wanted], results: Path) -> list[Activity]:
    """The jobs that have begun. Those that left no sign of it are left out."""
    written = _written_files()
    found = (_find_activity(job, log_path(job, results), written) for job in jobs)
    return [activity for activity in found if activity]


def _find_activity(job: Wanted, log: Path, written: set[tuple[int, int]]) -> Activity | None:
    text, (kept, machine) = _read(log), _kept(job)
    progress = last_progress(text) or "no progress line yet"
    if log.is_file():
        age = time.time() - log.stat().st_mtime
        is_here = _identity(log.stat()) in written
        if is_here or (kept and machine != platform.node() and age < FRESH_SECONDS):
            where = "" if is_here else f" on {machine or 'another machine, it seems'}"
            progress += f" ({max(age, 0):.0f} s ago{where})"
            return Activity(job.place, Phase.RUNNING, progress)
    if message := failure(text) or _exception(text):
        return Activity(job.place, Phase.FAILED, f"{message} (log: {log})")
    return Activity(job.place, Phase.CUT_OFF, f"{progress}; {kept}") if kept else None


def _kept(job: Wanted) -> tuple[str | None, str | None]:
    """What the step of a job keeps until its artifact is whole, and the machine that it runs on.

    Both are None where that is nothing, or not known.
    """
    root = job.place.with_name(f".{job.place.name}.training")
    if root.is_dir():
        owner = OWNER.match(_read(root / OWNER_FILE))
        return _newest_checkpoint(root), owner and owner[1]
    if job.step == "eval" and journal_path(job.place).is_file():
        count = _read(journal_path(job.place)).count("\n") - 1  # the first line names the run
        return f"{max(count, 0)} solutions are kept", None
    return None, None


def _newest_checkpoint(root: Path) -> str:
    found = [path for path in root.glob("*/checkpoint-*") if manifest_path(path).is_file()]
    if not found:
        return "no checkpoint"
    newest = max(found, key=lambda path: path.stat().st_mtime)
    return f"checkpoint of step {step_of(newest)}"


def _exception(log: str) -> str | None:
    """The last line of a log with a stack trace."""
    log = without_torchrun(log)
    return log.rstrip().splitlines()[-1] if TRACEBACK.search(log) else None


def _written_files() -> set[tuple[int, int]]:
    """The files that processes have open for writing, as far as this user may see them."""
    found = set()
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if descriptor.lstat().st_mode & stat.S_IWUSR:
                found.add(_identity(descriptor.stat()))
    return found


def _identity(status) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _read(file: Path) -> str:
    """The text of a file. It is empty if the file does not exist."""
    with suppress(FileNotFoundError):
        return file.read_text(encoding="utf-8", errors="replace")
    return ""
