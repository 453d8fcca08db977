"""Finds out by its files what became of a job: it runs, it failed, or it was cut off.

A job runs if a process has the lock of its unfinished entry. Not all file systems show the locks
of other machines: there a job counts as running while its log changes.
"""

import platform
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from xft.artifacts.manifest import manifest_path
from xft.cli.running import failure, without_torchrun
from xft.common.errors import counted
from xft.common.progress import last_progress
from xft.config.steps import RESULT
from xft.dag.node import Node
from xft.evaluation.samples import journal_path
from xft.store.store import Store, owner, partial, worker

FRESH_SECONDS = 300  # a job of another machine is over if its log has not changed for longer
TRACEBACK = re.compile(r"^Traceback \(most recent call last\):", re.MULTILINE)


class Phase(Enum):
    """What became of a job."""

    RUNNING = "running"
    FAILED = "failed"
    CUT_OFF = "cut off"


@dataclass(frozen=True)
class Activity:
    """A job that has begun. text: its progress, or the message of its failure and its log."""

    job: Node
    phase: Phase
    text: str


def find_activities(jobs: Iterable[Node], store: Store) -> list[Activity]:
    """The jobs that have begun. Those that left no sign of it are left out."""
    activities = (_find_activity(job, store.log(job.step, job.entry.name)) for job in jobs)
    return [activity for activity in activities if activity]


def _find_activity(job: Node, log: Path) -> Activity | None:
    text, folder = _read(log), partial(job.entry)
    progress = last_progress(text) or "no progress line yet"
    age = time.time() - log.stat().st_mtime if log.is_file() else FRESH_SECONDS
    machine = _read(owner(job.entry)).rpartition(" on ")[2]
    is_elsewhere = machine not in ("", platform.node()) and age < FRESH_SECONDS
    if (process := worker(job.entry)) or is_elsewhere:
        where = process or f"on {machine}"
        return Activity(job, Phase.RUNNING, f"{progress} ({max(age, 0):.0f} s ago; {where})")
    if message := failure(text) or _exception(text):
        return Activity(job, Phase.FAILED, f"{message}\n(log: {log})")
    kept = _kept(folder)
    return Activity(job, Phase.CUT_OFF, f"{progress}; {kept}") if kept else None


def _kept(folder: Path) -> str | None:
    """What an unfinished entry holds, from which its job goes on; None if that is nothing."""
    saved = [path for path in folder.glob(".*/*/checkpoint-*") if manifest_path(path).is_file()]
    if saved:
        newest = max(saved, key=lambda path: path.stat().st_mtime)
        return f"checkpoint of step {newest.name.removeprefix('checkpoint-')}"
    if journal_path(folder / RESULT).is_file():
        count = _read(journal_path(folder / RESULT)).count("\n") - 1  # the first line names the run
        return f"{counted(max(count, 0), 'solution')} kept"
    return "no checkpoint" if folder.is_dir() else None


def _exception(log: str) -> str | None:
    """The last line of a log with a stack trace."""
    log = without_torchrun(log)
    return log.rstrip().splitlines()[-1] if TRACEBACK.search(log) else None


def _read(file: Path) -> str:
    """The text of a file. It is empty if there is no such file."""
    with suppress(FileNotFoundError, IsADirectoryError):
        return file.read_text(encoding="utf-8", errors="replace")
    return ""
