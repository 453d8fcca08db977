"""Finds what became of the jobs of a run, by their files.

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
from xft.dag.nodes import Node
from xft.evaluation.result import journal_path
from xft.store.store import Store, owner, partial, worker

FRESH_SECONDS = 300  # a job of another machine is over if its log has not changed for longer
TRACEBACK = re.compile(r"^Traceback \(most recent call last\):", re.MULTILINE)


class Phase(Enum):
    """The state of a job."""

    RUNNING = "running"
    FAILED = "failed"
    CUT_OFF = "cut off"


@dataclass(frozen=True)
class BegunJob:
    """A job that has begun.

    node: what it makes.
    message: its progress, or why it failed.
    log: its log file.
    """

    node: Node
    phase: Phase
    message: str
    log: Path

    @property
    def text(self) -> str:
        """The message. That of a failure names the log too."""
        if self.phase is Phase.FAILED:
            return f"{self.message}\n(log: {self.log})"
        return self.message


def find_begun_jobs(nodes: Iterable[Node], store: Store) -> list[BegunJob]:
    """The jobs that have begun. Those that left no sign of it are left out."""
    begun_jobs = (_find_begun_job(node, store.log(node.step, node.entry.name)) for node in nodes)
    return [begun for begun in begun_jobs if begun]


def _find_begun_job(node: Node, log: Path) -> BegunJob | None:
    text = _read(log)
    progress = last_progress(text) or "no progress line yet"
    age = time.time() - log.stat().st_mtime if log.is_file() else FRESH_SECONDS
    if where := _place_of_job(node, age):
        message = f"{progress} ({max(age, 0):.0f} s ago; {where})"
        return BegunJob(node, Phase.RUNNING, message, log)
    if message := failure(text) or _exception(text):
        return BegunJob(node, Phase.FAILED, message, log)
    if kept := _kept(partial(node.entry)):
        return BegunJob(node, Phase.CUT_OFF, f"{progress}; {kept}", log)
    return None


def _place_of_job(node: Node, age: float) -> str | None:
    """The process of a job that runs, or its machine; None if it does not run.

    age: seconds since its log changed.
    """
    if process := worker(node.entry):
        return process
    machine = _read(owner(node.entry)).rpartition(" on ")[2]
    is_elsewhere = machine not in ("", platform.node())
    return f"on {machine}" if is_elsewhere and age < FRESH_SECONDS else None


def _kept(folder: Path) -> str | None:
    """The part of an unfinished entry that its job continues from. None if it must start again."""
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
