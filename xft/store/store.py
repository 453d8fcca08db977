"""A store: `<step>/<digest>/` for each artifact, made elsewhere and renamed when it is whole."""

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from stat import S_ISREG
from typing import TextIO

from xft.artifacts import claims, manifest
from xft.artifacts.artifact import ENTRY_FILE, sync, write_json
from xft.artifacts.claims import OWNER
from xft.artifacts.manifest import MANIFEST_SUFFIX, hash_file, json_sha256
from xft.common.errors import UserError
from xft.common.json_files import read_json

DIGITS = 16
MARK = "xft-store.json"  # identifies a store
FORMAT = 1
PARTIAL = ".partial"
FETCHED = ".fetched"  # in a store: folders with what was fetched of entries so far
LOGS, PLANS = "logs", "plans"
DIGEST = re.compile(f"[0-9a-f]{{{DIGITS}}}")
ENTRY = re.compile(rf"/\w+/({DIGEST.pattern})(?=[/.]|$)")  # in the path of an entry or its log


@dataclass(frozen=True)
class Recipe:
    """All that a step makes its artifact from.

    version: of the step's code, as `Code.version_of` gives it. options: values that are not the
    defaults, by their key in the configuration, such as "moe.num_experts". inputs: for each name
    the digest of an artifact's recipe, or the hash of a file.
    """

    step: str
    version: int | str
    options: dict[str, object]
    inputs: dict[str, str]

    @cached_property
    def digest(self) -> str:
        """The first 16 digits of SHA-256 over the recipe, and so over the recipes of its inputs."""
        return json_sha256(asdict(self))[:DIGITS]


class Store:
    """The store at a folder. The folder may not exist yet."""

    def __init__(self, root: Path):
        self.root = root

    def entry(self, step: str, digest: str) -> Path:
        """The folder of an artifact."""
        return self.root / step / digest

    def log(self, step: str, digest: str) -> Path:
        """The log of the job that makes an artifact."""
        return self.root / LOGS / step / f"{digest}.log"

    def entries(self) -> Iterator[Path]:
        """All entries, whole or not."""
        for folder in sorted(self.root.glob(f"[!.]*/{'[0-9a-f]' * DIGITS}*")):
            if folder.parent.name not in (LOGS, PLANS):
                yield folder

    def check(self) -> None:
        """Raise UserError if the folder holds something that is no store of this version."""
        if not self.root.exists():
            return
        mark = self.root / MARK
        if not self.root.is_dir() or (not mark.is_file() and any(self.root.iterdir())):
            raise UserError(
                f"config: store = {self.root}: it is there but is no store: it has no {MARK}. Move "
                "it away, or name another folder"
            )
        if mark.is_file() and read_json(mark) != {"format": FORMAT}:
            raise UserError(
                f"config: store = {self.root}: another version of this project made it. Name "
                "another folder"
            )

    def open(self, or_else: str = "") -> TextIO:
        """Make the folder a store, and lock it as `claims.occupy` does."""
        self.check()
        mark = self.root / MARK
        if not mark.is_file():
            self.root.mkdir(parents=True, exist_ok=True)
            write_json(mark, {"format": FORMAT})
        return claims.occupy(self.root, or_else)

    def check_idle(self, names: Mapping[Path, str]) -> None:
        """Raise UserError if jobs that outlived their run still make entries.

        names: of what the entries hold.
        """
        busy = []
        for entry, name in names.items():
            process = worker(entry)
            if process:
                log = self.log(entry.parent.name, entry.name)
                busy.append(f"{name} is still being made by {process}, from an earlier run: {log}")
        if busy:
            lines = [*busy, "Wait until this has ended, or stop it. Nothing was changed."]
            raise UserError("\n".join(lines))


def partial(entry: Path) -> Path:
    """Where an entry is made."""
    return entry.with_name(entry.name + PARTIAL)


def fetched(entry: Path) -> Path:
    """Where files of an entry lie that come from a server, until it is whole."""
    return entry.parents[1] / FETCHED / entry.parent.name / entry.name


def place_of(entry: Path) -> str:
    """The name of an entry in buckets: STEP/DIGEST."""
    return f"{entry.parent.name}/{entry.name}"


def log_of(entry: Path) -> Path:
    """The log of the job that makes an entry."""
    return Store(entry.parents[1]).log(entry.parent.name, entry.name)


def owner(entry: Path) -> Path:
    """The file beside the log that is locked while a process makes the entry, and names it.

    It outlives the entry: see `remove`.
    """
    return log_of(entry).with_suffix(f".{OWNER}")


def claimed(entry: Path) -> AbstractContextManager[TextIO]:
    """The right to make an entry, as `claims.claimed` gives it."""
    return claims.claimed(owner(entry), f"is making {entry}")


def worker(entry: Path) -> str | None:
    """The process that works on an unfinished entry, in words. None if no process does."""
    return claims.holder(owner(entry))


def finish(entry: Path, recipe: Recipe) -> None:
    """Make an unfinished entry whole, by one rename. What only another attempt needs is removed.

    If the entry has been made in the meantime, the unfinished one is removed.
    """
    folder = partial(entry)
    for path in folder.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    write_json(folder / ENTRY_FILE, _describe(folder, recipe))
    sync(folder)
    try:
        folder.rename(entry)
    except OSError:
        if not is_whole(entry):
            raise
        shutil.rmtree(folder)


def _describe(entry: Path, recipe: Recipe) -> dict[str, object]:
    """The content of ENTRY_FILE: the recipe, and the SHA-256 of each other file right in the entry,
    by name. Some of them are in no manifest.
    """
    files = (path for path in entry.glob("[!.]*") if path.is_file() and path.name != ENTRY_FILE)
    return {"recipe": asdict(recipe), "files": {file.name: hash_file(file) for file in files}}


def entry_faults(entry: Path) -> list[str]:
    """The differences between an entry and its ENTRY_FILE, one sentence each.

    Manifests tell those of the files in folders. Raises UserError if ENTRY_FILE is no JSON object.
    """
    file = entry / ENTRY_FILE
    stated = read_json(file)
    try:
        recipe = Recipe(**stated["recipe"])
        actual = _describe(entry, recipe)
        altered = dict(stated["files"].items() ^ actual["files"].items())
    except (AttributeError, KeyError, TypeError):
        return [f"{file} is not what a store holds"]
    if altered:
        return [f"{entry / name} was altered" for name in sorted(altered)]
    if recipe.digest != entry.name:
        return [f"{entry} holds another recipe than its name says"]
    return [] if manifest.as_json(actual) == file.read_text("utf-8") else [f"{file} was edited"]


def all_faults(entry: Path, full: bool = True) -> list[str]:
    """The differences between an entry and all that it states, with every byte compared.

    What keeps a file from being read is one, too. full: as for `manifest.find_faults`.
    """
    try:
        manifests = sorted(entry.glob(f"*{MANIFEST_SUFFIX}"))
        faults = entry_faults(entry) if manifests else [f"{entry} has no manifest"]
        for file in manifests:
            artifact = file.with_name(file.name.removesuffix(MANIFEST_SUFFIX))
            faults += manifest.find_faults(artifact, manifest.read_manifest(file), full)
    except (UserError, OSError) as error:
        return [str(error)]
    return faults


def remove(entry: Path) -> None:
    """Remove an entry, whole or not, and its logs, or what was fetched of it. It vanishes by one
    rename.

    The lock stays: where its file was removed, one process could hold the lock of the removed file
    and another that of the next one. Raises UserError if a process makes the entry.
    """
    is_fetched = entry.parents[1].name == FETCHED
    root = entry.parents[2 if is_fetched else 1]
    whole = Store(root).entry(entry.parent.name, entry.name.removesuffix(PARTIAL))
    with claimed(whole):
        if entry.is_symlink():
            entry.unlink()
        else:
            aside = entry.with_name(f".{entry.name}.removed")
            entry.rename(aside)
            shutil.rmtree(aside)
        if is_fetched:
            return
        for file in log_of(whole).parent.glob(f"{whole.name}.*"):
            if file != owner(whole):
                file.unlink()


def lost_inputs(entries: Iterable[Path]) -> dict[str, dict[Path, str]]:
    """The inputs of entries that no store holds any more.

    For each digest: the entries that were made from it, each with the input's name. An entry that
    links to another store may have its inputs in both.
    """

    @cache
    def digests(store: Path) -> set[str]:
        return {kept.name for kept in Store(store).entries() if is_whole(kept)}

    lost: dict[str, dict[Path, str]] = {}
    for entry in filter(is_whole, entries):
        stores = {path.parents[1] for path in (entry.absolute(), entry.resolve())}
        with suppress(UserError, LookupError, TypeError, AttributeError):  # entry_faults tells
            inputs = read_json(entry / ENTRY_FILE)["recipe"]["inputs"].items()
            if all((store / MARK).is_file() for store in stores):
                held = set().union(*map(digests, stores))
                for name, digest in inputs:
                    if DIGEST.fullmatch(digest) and digest not in held:
                        lost.setdefault(digest, {})[entry] = name
    return lost


def in_store(path: Path) -> bool:
    """Whether a path is that of an entry of a store, of its log, or in an entry."""
    match = ENTRY.search(str(path))
    above = Path(str(path)[: match.start()]) if match else path
    return any((place / MARK).is_file() for place in (above, above.parent))


def is_whole(entry: Path) -> bool:
    """Whether an entry exists. Existence is all: an entry appears by one rename."""
    return (entry / ENTRY_FILE).is_file()


def disk_bytes(entries: Iterable[Path]) -> int:
    """The bytes that a disk has more without some entries.

    A file with several hard links counts once, and only if all of them are in these entries.
    """
    copies = (entry for entry in entries if not entry.is_symlink())
    status = (path.lstat() for entry in copies for path in entry.rglob("*"))
    links = Counter(
        (state.st_ino, state.st_nlink, state.st_size) for state in status if S_ISREG(state.st_mode)
    )
    return sum(size for (_, number, size), count in links.items() if count == number)
