"""Finds what no configuration wants any more."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xft.config.results_folder import CONFIG_FILE, is_results_folder
from xft.store.names import links_in
from xft.store.plan import jobs_of, reading
from xft.store.store import ENTRY, PARTIAL, PLANS, Store, size_of

SECONDS_PER_DAY = 24 * 3600


@dataclass(frozen=True)
class Unwanted:
    """An entry that no configuration wants, whole or not. seconds: when it was made."""

    entry: Path
    nbytes: int
    seconds: float


def find_unwanted(store: Store) -> Iterator[Unwanted]:
    """The entries that no results folder wants."""
    wanted = wanted_digests(store)
    for entry in store.entries():
        if entry.name.removesuffix(PARTIAL) not in wanted:
            nbytes = 0 if entry.is_symlink() else size_of(entry)
            yield Unwanted(entry, nbytes, entry.lstat().st_mtime)


def wanted_digests(store: Store, but: Path | None = None) -> set[str]:
    """The digests of what results folders want, but for one folder.

    A results folder wants what its newest plan holds, and the models that its bases link to. One
    that was renamed, and stayed beside others, wants what its links show. One that is gone wants
    nothing.
    """
    plans = newest_plans(store)
    beside = {file.parent for each in plans for file in each.parent.glob(f"*/{CONFIG_FILE}")}
    renamed = filter(is_results_folder, beside - plans.keys())
    plans = {results: plan for results, plan in plans.items() if results != but}
    wanted = {digest for plan in plans.values() for digest in jobs_of(plan)}
    links = (link for folder in renamed for link in links_in(folder))
    wanted = wanted.union(*(ENTRY.findall(f"/{link.readlink()}") for link in links))
    bases = (base for base in store.root.glob("base/*") if base.name in wanted)
    models = (os.path.realpath(file) for base in bases for file in base.glob("artifact/*"))
    return wanted.union(*map(ENTRY.findall, models))


def newest_plans(store: Store) -> dict[Path, Path]:
    """The newest plan for each results folder that exists, by the folder."""
    found = {}
    for plan in sorted(store.root.glob(f"{PLANS}/*.json"), key=lambda file: file.stat().st_mtime):
        with reading(plan) as content:
            # The store and its results may have been moved together, or the store alone.
            moved = store.root.resolve() / content.get("from_store", content["results"])
            places = [place for place in (moved, Path(content["results"])) if place.is_dir()]
        found |= {place.resolve(): plan for place in places[:1]}
    return found
