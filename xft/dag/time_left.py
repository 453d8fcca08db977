"""Estimates how long a run still takes, by what jobs of the same rules took."""

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from xft.common.json_files import read_json
from xft.config.steps import TRAINING_SECTIONS
from xft.dag.run import WorkflowRun
from xft.store.job_records import COSTS_FILE
from xft.store.store import DIGITS, ENTRY, is_whole, partial

LONG = {*TRAINING_SECTIONS, "eval"}  # steps that take most of a run's time


def time_left(run: WorkflowRun, outputs: Iterable[str]) -> str:
    """The time that the jobs of a run still take, in words. outputs: of its jobs, made or not.

    A job takes what the newest one of its rule took. Empty while this is unknown of a training or
    an evaluation. "more than" if it is unknown of others. What the jobs of this run have taken,
    compared with the time since it began, shows how many run at once: at least one.
    """
    left, unknown, taken = 0.0, False, 0.0
    for entry in (Path(output) for output in outputs if ENTRY.search(f"/{output}")):
        so_far = _seconds(entry if is_whole(entry) else partial(entry), run.began)
        taken += so_far
        if not is_whole(entry):
            others = entry.parent.glob(f"{'?' * DIGITS}/{COSTS_FILE}")
            newest = max(others, key=lambda file: file.stat().st_mtime, default=None)
            if newest is None and entry.parent.name in LONG:
                return ""
            unknown |= newest is None
            left += max(_seconds(newest.parent) - so_far, 0) if newest else 0
    if not taken:
        return ""
    minutes = left * min((time.time() - run.began) / taken, 1) / 60
    text = f"{minutes / 60:,.1f} h" if minutes >= 120 else f"{max(round(minutes), 1)} min"
    return f", {'more than' if unknown else 'about'} {text} left"


def _seconds(folder: Path, since: float = 0) -> float:
    """What the last attempt to make an entry took; 0 if it ended before a time, or is unknown."""
    file = folder / COSTS_FILE
    with suppress(OSError, LookupError):
        if file.stat().st_mtime >= since:
            return read_json(file)["attempts"][-1]["seconds"]
    return 0
