"""The names of artifacts in results folders, links into the store; and what no folder wants."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from xft.common.errors import UserError
from xft.common.results_folder import CONFIG_FILE, is_results_folder
from xft.store.code import ROOT, STEPS_FOLDER
from xft.store.job_records import jobs_of, reading
from xft.store.store import ENTRY, FETCHED, PARTIAL, PLANS, Store

# Those of a store in which links end. Logs are in folders of the same names.
FOLDERS = {PLANS, *(file.stem for file in (ROOT / STEPS_FOLDER).glob("*.py"))}
SECONDS_PER_DAY = 24 * 3600


def lay(links: Mapping[str, str]) -> None:
    """Make links, each from a path in a results folder to one in the store.

    A target that does not exist gets none. Raises UserError if a path is taken by something else.
    """
    for name, target in links.items():
        link = Path(name)
        if not Path(target).exists():
            continue
        if fault := fault_of(link):
            raise UserError(fault)
        link.parent.mkdir(parents=True, exist_ok=True)
        relative = os.path.relpath(Path(target).absolute(), link.parent.resolve())
        if link.is_symlink() and link.readlink() == Path(relative):
            continue
        new = link.with_name(f".{link.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(relative)
        new.replace(link)


def take_away(results: Path, kept: Iterable[str]) -> None:
    """Remove the links of a results folder that are not among `kept`, and folders that are empty.

    Only links into a store are removed. What they lead to stays.
    """
    wanted = {os.path.abspath(name) for name in kept}  # noqa: PTH100 (links are not followed)
    for link in list(links_in(results)):
        if os.path.abspath(link) not in wanted or not link.exists():  # noqa: PTH100
            link.unlink()
            for folder in link.parents:
                if folder == results or any(folder.iterdir()):
                    break
                folder.rmdir()


def check_free(names: Iterable[str]) -> None:
    """Raise UserError if a results folder holds something of the user's where a link would be."""
    faults = [fault for name in names if (fault := fault_of(Path(name)))]
    if faults:
        raise UserError("\n".join([*faults[:3], "Nothing was changed."]))


def fault_of(path: Path) -> str | None:
    """Why no link can be made at a path; None if it is free or holds such a link."""
    taken = []
    if os.path.lexists(path) and not _is_link(path):
        taken.append(path)
    for folder in path.parents:
        if os.path.lexists(folder) and not folder.is_dir():
            taken.append(folder)
    if not taken:
        return None
    return (
        f"{taken[0]} is where the workflow makes a link, but the workflow did not make it. Move "
        "it away, or choose another results_dir"
    )


def _is_link(path: Path) -> bool:
    """Whether a path is a link into a store, by its target's folders: the store may be gone."""
    entries = ENTRY.finditer(f"/{path.readlink()}") if path.is_symlink() else ()
    return any(Path(entry[0]).parent.name in FOLDERS for entry in entries)


def links_in(folder: Path) -> Iterator[Path]:
    """The links into a store, at any depth, but for those of results folders within this one."""
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if entry.is_symlink():
            if _is_link(path):
                yield path
        elif entry.is_dir() and not is_results_folder(path):
            yield from links_in(path)


def find_unwanted(store: Store) -> list[Path]:
    """The entries, whole or not, that no results folder wants."""
    wanted = wanted_digests(store)
    entries = [*store.entries(), *store.root.glob(f"{FETCHED}/*/*")]
    return [entry for entry in entries if entry.name.removesuffix(PARTIAL) not in wanted]


def wanted_digests(store: Store, but: Path | None = None) -> set[str]:
    """The digests of what results folders want, but for one folder.

    A results folder wants what its newest plan holds, and the models that its bases link to. One
    that was renamed wants what its links show, and what the plan of its unfinished run holds. One
    that is gone wants nothing.
    """
    wanted: set[str] = set()
    for results, plan in results_folders(store).items():
        if results == but:
            continue
        if plan:
            wanted |= jobs_of(plan).keys()
        else:
            wanted |= _linked_digests(results, store)
    bases = [base for base in store.root.glob("base/*") if base.name in wanted]
    for base in bases:
        for file in base.glob("artifact/*"):
            wanted.update(ENTRY.findall(os.path.realpath(file)))
    return wanted


def results_folders(store: Store) -> dict[Path, Path | None]:
    """The results folders that the store served, each with its newest plan.

    None for one that was renamed: it stands beside the place of a plan, and no plan names it.
    """
    newest: dict[Path, Path] = {}
    parents: set[Path] = set()
    for plan in sorted(store.root.glob(f"{PLANS}/*.json"), key=lambda file: file.stat().st_mtime):
        with reading(plan) as content:
            # The store and its results may have been moved together, or the store alone.
            moved = store.root.resolve() / content.get("from_store", content["results"])
            places = [moved, Path(content["results"])]
        there = [place.resolve() for place in places if place.is_dir()]
        if there:
            newest[there[0]] = plan
            parents.add(there[0].parent)
        else:
            parents.update(place.resolve().parent for place in places)
    beside = {file.parent for parent in parents for file in parent.glob(f"*/{CONFIG_FILE}")}
    renamed = {folder: None for folder in beside if is_results_folder(folder)}
    return renamed | newest


def _linked_digests(results: Path, store: Store) -> set[str]:
    """The digests in the links of a results folder, also of all jobs of a plan among them."""
    digests = {name for link in links_in(results) for name in ENTRY.findall(f"/{link.readlink()}")}
    plans = (store.root / PLANS / f"{digest}.json" for digest in digests)
    return digests.union(*(jobs_of(plan) for plan in plans if plan.is_file()))
