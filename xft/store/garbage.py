"""Finds what no configuration wants any more."""

import os
from pathlib import Path

from xft.common.results_folder import CONFIG_FILE, is_results_folder
from xft.store.job_plan import jobs_of, reading
from xft.store.names import links_in
from xft.store.store import ENTRY, PARTIAL, PLANS, Store

SECONDS_PER_DAY = 24 * 3600


def find_unwanted(store: Store) -> list[Path]:
    """The entries, whole or not, that no results folder wants."""
    wanted = wanted_digests(store)
    return [entry for entry in store.entries() if entry.name.removesuffix(PARTIAL) not in wanted]


def wanted_digests(store: Store, but: Path | None = None) -> set[str]:
    """The digests of what results folders want, but for one folder.

    A results folder wants what its newest plan holds, and the models that its bases link to. One
    that was renamed wants what its links show, and what the plan of its unfinished run holds. One
    that is gone wants nothing.
    """
    wanted: set[str] = set()
    for results, plan in results_folders(store).items():
        if results != but:
            wanted |= jobs_of(plan).keys() if plan else _shown(results, store)
    bases = (base for base in store.root.glob("base/*") if base.name in wanted)
    models = (os.path.realpath(file) for base in bases for file in base.glob("artifact/*"))
    return wanted.union(*map(ENTRY.findall, models))


def results_folders(store: Store) -> dict[Path, Path | None]:
    """The results folders that the store served, each with its newest plan.

    None for one that was renamed: it stands beside the place of a plan, and no plan names it.
    """
    newest, parents = {}, set()
    for plan in sorted(store.root.glob(f"{PLANS}/*.json"), key=lambda file: file.stat().st_mtime):
        with reading(plan) as content:
            # The store and its results may have been moved together, or the store alone.
            moved = store.root.resolve() / content.get("from_store", content["results"])
            places = [moved, Path(content["results"])]
        there = [place.resolve() for place in places if place.is_dir()][:1]
        newest |= dict.fromkeys(there, plan)
        parents |= {place.resolve().parent for place in there or places}
    beside = {file.parent for parent in parents for file in parent.glob(f"*/{CONFIG_FILE}")}
    return dict.fromkeys(filter(is_results_folder, beside)) | newest


def _shown(results: Path, store: Store) -> set[str]:
    """The digests in the links of a results folder, also of all jobs of a plan among them."""
    digests = {
        digest for link in links_in(results) for digest in ENTRY.findall(f"/{link.readlink()}")
    }
    plans = (store.root / PLANS / f"{digest}.json" for digest in digests)
    return digests.union(*(jobs_of(plan) for plan in plans if plan.is_file()))
