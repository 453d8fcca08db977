"""Finds what no configuration wants any more."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xft.checkpoints.strict_json import read_json
from xft.store.plan import jobs_of
from xft.store.store import PARTIAL, PLANS, Store, size_of, worker

SECONDS_PER_DAY = 24 * 3600


@dataclass(frozen=True)
class Unwanted:
    """An entry that no configuration wants, whole or not. seconds: when it was made."""

    entry: Path
    nbytes: int
    seconds: float


def find_unwanted(store: Store) -> Iterator[Unwanted]:
    """The entries that the newest plan of no results folder holds, apart from running jobs'.

    A results folder that is gone wants nothing.
    """
    wanted = {digest for plan in newest_plans(store) for digest in jobs_of(plan)}
    for entry in store.entries():
        digest = entry.name.removesuffix(PARTIAL)
        if digest not in wanted and not worker(entry.with_name(digest)):
            nbytes = 0 if entry.is_symlink() else size_of(entry)
            yield Unwanted(entry, nbytes, entry.lstat().st_mtime)


def newest_plans(store: Store) -> list[Path]:
    """The newest plan for each results folder that exists."""
    found = {}
    for plan in sorted(store.root.glob(f"{PLANS}/*.json"), key=lambda file: file.stat().st_mtime):
        found[read_json(plan)["results"]] = plan
    return [plan for results, plan in found.items() if Path(results).is_dir()]
