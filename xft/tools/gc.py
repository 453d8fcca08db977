"""Remove what no configuration needs any more from a store.

A configuration needs what its last run needed. If its results folder was renamed, and is still in
the same parent folder, it needs what this folder shows and what an unfinished run of it made. If
its results folder was deleted, it needs nothing. Nothing is removed while a job runs.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from xft.cli.step import StepParser
from xft.common.errors import UserError
from xft.estimates.planning import disk_text
from xft.store import others
from xft.store.job_records import jobs_of
from xft.store.links import SECONDS_PER_DAY, find_unwanted, results_folders, wanted_digests
from xft.store.store import MARK, PARTIAL, PLANS, Store, disk_bytes, remove
from xft.tools.push import check_url

PLAN_DAYS = 7  # a job in a queue may still read the plan of an earlier run


def main(argv: list[str] | None = None) -> None:
    parser = StepParser("xft gc", __doc__)
    parser.path("store", "STORE", "Default: store.", nargs="?", default=Path("store"))
    parser.add_argument(
        "--keep-days",
        type=float,
        metavar="N",
        help="Keep what is younger. Default: 0, and of a bucket 1: somebody may just upload it.",
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="Do not ask, as in a job, or in cron: without a terminal nobody can answer.",
    )
    parser.add_argument("--dry-run", action="store_true", help="Only list what would be removed.")
    parser.add_argument(
        "--store",
        metavar="URL",
        dest="url",
        help="A bucket, in place of STORE: remove what killed uploads left there.",
    )
    args = parser.parse_args(argv)
    if not (args.yes or args.dry_run or sys.stdin.isatty()):
        raise UserError(
            "nobody can be asked here, as there is no terminal. To remove without a question: "
            "--yes. To list what would be removed: --dry-run"
        )
    agrees = _asker(args.yes, args.dry_run)
    if args.url:
        _collect_leftovers(args.url, 1 if args.keep_days is None else args.keep_days, agrees)
        return
    if not (args.store / MARK).is_file():
        raise UserError(f"{args.store} is no store: it has no {MARK}")
    store = Store(args.store)
    with store.open():
        _collect(store, args.keep_days or 0, agrees)
        if not args.dry_run:
            _forget_plans(store)


def _asker(agreed: bool, only_lists: bool) -> Callable[[str], bool]:
    """Callable (what): whether it is to be removed."""

    def agrees(what: str) -> bool:
        if only_lists:
            print(f"Nothing was removed. Without --dry-run: {what}")
            return False
        return agreed or _answer(f"Remove {what}? [y/N] ") in ("y", "yes")

    return agrees


def _answer(question: str) -> str:
    """The answer of the user; empty if there is no user, or at the end of the input (Ctrl-D)."""
    try:
        return input(question).strip().lower()
    except EOFError:
        print()
        return ""


def _collect(store: Store, keep_days: float, agrees: Callable[[str], bool]) -> None:
    """Remove what nobody wants, if the user agrees."""
    now = time.time()
    if not results_folders(store):
        raise UserError(
            f"no results folder that {store.root} served is there, or beside its place under "
            "another name. Where one was moved elsewhere, run the workflow once into it"
        )
    names = _names_by_digest(store)
    unfinished = {}
    for entry in store.entries():
        if entry.suffix == PARTIAL:
            unfinished[entry.with_suffix("")] = names.get(entry.stem, entry.parent.name)
    store.check_idle(unfinished)
    oldest = now - keep_days * SECONDS_PER_DAY
    unwanted = [entry for entry in find_unwanted(store) if entry.lstat().st_mtime <= oldest]
    sizes = {entry: disk_bytes([entry]) for entry in unwanted}
    for entry in sorted(unwanted, key=sizes.get, reverse=True):
        days = (now - entry.lstat().st_mtime) / SECONDS_PER_DAY
        name = names.get(entry.name.removesuffix(PARTIAL), entry.parent.name)
        print(f"{entry}  {name}, {disk_text(sizes[entry])}, {days:.0f} days old")
    total = disk_text(disk_bytes(unwanted))
    if not unwanted:
        print("Nothing to remove: the configurations want all that the store holds.")
    elif agrees(f"these {len(unwanted)} entries, {total}"):
        for entry in unwanted:
            remove(entry)
        print(f"Removed: {total}")


def _names_by_digest(store: Store) -> dict[str, str]:
    """The names of what the plans of a store make."""
    names = {}
    for plan in store.root.glob(f"{PLANS}/*.json"):
        for digest, job in jobs_of(plan).items():
            names[digest] = job.name
    return names


def _forget_plans(store: Store) -> None:
    """Remove plans that no job reads any more."""
    served = results_folders(store)
    kept = wanted_digests(store) | {plan.stem for plan in served.values() if plan}
    for plan in store.root.glob(f"{PLANS}/*"):
        age = time.time() - plan.stat().st_mtime
        if plan.stem not in kept and age > PLAN_DAYS * SECONDS_PER_DAY:
            plan.unlink()


def _collect_leftovers(url: str, keep_days: float, agrees: Callable[[str], bool]) -> None:
    """Remove from a bucket, if the user agrees, what killed uploads left."""
    check_url(url)
    bucket = others.bucket(url)
    leftovers = bucket.leftovers()
    now = bucket.now() if leftovers else 0  # the clock here may be wrong
    oldest = now - keep_days * SECONDS_PER_DAY
    sizes = {name: size for name, (size, when) in leftovers.items() if when <= oldest}
    total = disk_text(sum(sizes.values()))
    for name, size in sizes.items():
        print(f"{url}/{name}  {disk_text(size)}")
    if not sizes:
        print("Nothing to remove: entries name all that the bucket holds.")
    elif agrees(f"these {len(sizes)} files, {total}"):
        bucket.remove(sizes)
        print(f"Removed: {total}")
