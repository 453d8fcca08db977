"""How entries lie in a bucket, which is a folder on a server.

    URL/STEP/DIGEST/entry.json    an entry: the manifest of all of its files
    URL/files/SHA256              the content of files, once for all entries that have it

The manifest comes last: where it is missing, there is no entry. The name of a content is its hash.
So two machines that publish at once write the same bytes, and what a killed upload left serves the
next one. No name that a bucket states leads out of an entry (`manifest.as_manifest`).
"""

import atexit
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Lock

from fsspec.callbacks import Callback

from xft.artifacts import manifest
from xft.artifacts.artifact import ENTRY_FILE, sync
from xft.artifacts.manifest import MANIFEST_SUFFIX, Manifest, hash_file
from xft.checkpoints.model_files import MAX_HEADER_BYTES, PREFIX_BYTES, hash_header
from xft.common.errors import UserError
from xft.common.json_files import MAX_JSON, json_object, read_json
from xft.store.server import AT_ONCE, DRAFT, Server
from xft.store.store import DIGEST, all_faults, claimed, fetched, is_whole, place_of

SMALL = 2**23  # bytes. Of larger files, one is uploaded at a time
FILES = "files"

ENTRY = re.compile(rf"\w+/{DIGEST.pattern}/{ENTRY_FILE}")
LEFT = re.compile(rf"{FILES}/[0-9a-f]{{64}}$|.*{re.escape(DRAFT)}$")
Files = Mapping[str, dict]  # as in `Manifest.files`
# What names, sizes and nested objects lead to that an entry states and no machine takes.
UNUSABLE = (OSError, UnicodeError, OverflowError, RecursionError)
# Of a machine that takes no entry at all.
OF_THIS_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


class Unusable(UserError):
    """An entry states what no machine takes, such as too long a name."""


@contextmanager
def _faults_of(place: str) -> Iterator[None]:
    """Raise Unusable, with the place of an entry, for what it states and this machine cannot take.

    Errors of OF_THIS_MACHINE pass.
    """
    try:
        yield
    except UNUSABLE as error:
        if isinstance(error, OSError) and error.errno in OF_THIS_MACHINE:
            raise
        reason = str(error.strerror if isinstance(error, OSError) else error)
        raise Unusable(f"{place} cannot be taken: {reason:.200}") from None


class _Watch(Callback):
    """Reports the bytes of a file on their way. More of them than stated end the transfer."""

    def __init__(self, name: str, size: int, report: Callable[[int], object]):
        super().__init__()
        self.name, self.stated, self.report, self.told = name, size, report, 0

    def call(self, *_, **__) -> None:
        """Called by each update of `value`."""
        if max(self.value, self.size or 0) > self.stated:
            raise UserError(f"{self.name} has more bytes than its entry states")
        self.report(self.value - self.told)
        self.told = self.value

    def end(self) -> None:
        """Report what the file system did not."""
        self.absolute_update(self.stated)


class Bucket:
    """A store on a server. Its methods raise Away if the server cannot be used."""

    def __init__(self, url: str):
        self.server = Server(url)
        self._sizes: dict[str, int] = {}  # of manifests
        self._large = Lock()  # of the upload of a large file

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def away(self) -> str | None:
        """Why it is not used any more; None while it is."""
        return self.server.away

    @cached_property
    def _pool(self) -> ThreadPool:
        """The end of the process does not wait for its threads: a transfer may last for hours."""
        pool = ThreadPool(AT_ONCE)
        atexit.register(pool.terminate)
        return pool

    def check(self) -> None:
        """Raise Away if it cannot be used."""
        self.server.check()

    def held(self, steps: Iterable[str]) -> set[str]:
        """The entries of some steps, as STEP/DIGEST. Raises Away."""
        self.server.forget_lists()
        for sizes in self._pool.map(self.server.find, dict.fromkeys(steps), 1):
            self._sizes |= sizes
        return {name.rpartition("/")[0] for name in self._sizes if ENTRY.fullmatch(name)}

    def sizes(self) -> dict[str, int]:
        """The sizes of all contents, by hash. Raises Away."""
        return {name.rpartition("/")[2]: size for name, size in self.server.find(FILES).items()}

    def files_of(self, place: str) -> Files:
        """The files of an entry, which is named STEP/DIGEST.

        Raises UserError if its manifest is damaged or not there.
        """
        with _faults_of(f"{self.url}/{place}"):
            return self._stated_files(place)

    def _stated_files(self, place: str) -> Files:
        name = f"{self.url}/{place}/{ENTRY_FILE}"
        if self._sizes.get(f"{place}/{ENTRY_FILE}", 0) > MAX_JSON:
            raise UserError(f"{name} is not a manifest: it is too large")
        file = self.server.named(place, ENTRY_FILE)
        content = self.server.ask(lambda fs: fs.cat_file(file), name)
        stated = manifest.as_manifest(json_object(content, name), name)
        if stated.parameters != {"entry": place}:
            raise UserError(f"{name} is that of another entry")
        if stated.to_json().encode() != content:
            raise UserError(f"{name} was altered")
        return stated.files

    def push(self, entry: Path, report: Callable[[int], object]) -> None:
        """Upload an entry. report: gets numbers of bytes.

        Where the bucket has it already, its content is replaced: it may be damaged there. Raises
        UserError if it is damaged here, or if the bucket does not take it.
        """
        if faults := all_faults(entry, full=False):  # small files are compared
            raise UserError("; ".join(faults))
        files = describe(entry)
        name = self.server.named(place_of(entry), ENTRY_FILE)
        is_there = self.server.size_of(name) is not None
        put = partial(self._put, entry, is_there, report)
        small = self._put_small(entry, files, report) if self.server.scheme == "hf" else {}
        self._of_each(put, {file: files[file] for file in files.keys() - small})
        stated = Manifest("entry", files, {"entry": place_of(entry)})
        self.server.put(stated.to_json().encode(), name)

    def _put_small(self, entry: Path, files: Files, report: Callable) -> Files:
        """Put the small files of an entry together, as the hub counts requests. Returns them."""
        small = {file: stated for file, stated in files.items() if stated["size"] <= SMALL}
        names = {self._content(stated): str(entry / file) for file, stated in small.items()}
        self.server.ask(lambda fs: fs.put([*names.values()], [*names]))
        report(sum(stated["size"] for stated in small.values()))
        return small

    def _put(self, entry: Path, is_there: bool, report: Callable, file: str, stated: dict) -> None:
        """Upload a file of an entry. is_there: whether the bucket has the entry already."""
        if not _is_same(entry / file, stated):
            raise UserError(f"{entry / file} was altered")
        name, size = self._content(stated), stated["size"]
        watch = _Watch(file, size, report)
        if size <= SMALL:
            self.server.put(entry / file, name, watch)
        elif is_there or self.server.size_of(name) != size:
            with self._large:
                self.server.put(entry / file, name, watch)
        watch.end()

    def _content(self, stated: dict) -> str:
        """The name of a content in the bucket."""
        return self.server.named(FILES, stated["sha256"])

    def fetch(self, entry: Path, files: Files, report: Callable[[int], object]) -> None:
        """Fetch an entry with these files, which becomes whole by one rename.

        What an earlier attempt fetched is not fetched again. Raises UserError if a file is damaged
        or missing, if the entry is not what its name says, or if a process makes it, or Away.
        """
        with claimed(entry), self._faults_of_fetched(entry):
            if is_whole(entry):
                return
            folder = fetched(entry)
            self.fetch_part(entry, files, report)
            faults = all_faults(folder, full=False)
            if not faults and describe(folder) != files:
                faults = [f"{self.url}/{place_of(entry)} has other files than it states"]
            if faults:
                shutil.rmtree(folder)
                raise UserError("; ".join(faults))
            for path in filter(Path.is_file, folder.glob("*/**/*")):
                path.chmod(0o444)  # as `create_artifact` does
            sync(folder)
            entry.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(entry)

    def fetch_part(self, entry: Path, files: Files, report: Callable = lambda n: None) -> None:
        """Fetch files of an entry to where it is not whole. Raises UserError as `fetch` does."""
        with self._faults_of_fetched(entry):
            self._of_each(partial(self._get, fetched(entry), report), files)

    @contextmanager
    def _faults_of_fetched(self, entry: Path) -> Iterator[None]:
        """As `_faults_of`. What was fetched is removed, so that nothing of it is in the way."""
        try:
            with _faults_of(f"{self.url}/{place_of(entry)}"):
                yield
        except Unusable:
            shutil.rmtree(fetched(entry), ignore_errors=True)
            raise

    def _of_each(self, work: Callable, files: Files) -> None:
        """Do work with each file, its name and what is stated. All end before a fault is raised."""
        self._pool.starmap(work, files.items(), 1)

    def _get(self, folder: Path, report: Callable, file: str, stated: dict) -> None:
        name = f"{self.url}/{FILES}/{stated['sha256']} ({file})"
        target, place = folder / file, self._content(stated)
        draft = target.with_name(f".{target.name}{DRAFT}")
        watch = _Watch(name, stated["size"], report)
        if not _is_same(target, stated):
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)  # a request that was given up may still write there
            if stated.get("is_header"):
                self.server.ask(partial(_get_header, place=place, draft=draft), name)
                os.truncate(draft, stated["size"])
            else:
                self.server.get(place, draft, watch, name)
            if not _is_same(draft, stated):
                draft.unlink(missing_ok=True)
                raise UserError(f"{name} was altered")
            draft.replace(target)
        watch.end()

    def now(self) -> float:
        """The time by the clock of the server. Raises Away."""
        return self.server.now()

    def leftovers(self) -> dict[str, tuple[int, float]]:
        """The files that no entry names, such as those of killed uploads, each with its bytes and
        its time by the clock of the server.

        Raises UserError if the manifest of an entry is damaged: it may name more. Raises Away.
        """
        found = self.server.find()
        places = [name.rpartition("/")[0] for name in found if ENTRY.fullmatch(name)]
        stated = (files.values() for files in self._pool.map(self.files_of, places))
        used = {f"{FILES}/{file['sha256']}" for file in chain(*stated)}
        left = [name for name in found if LEFT.match(name) and name not in used]
        times = self._pool.map(self.server.time_of, left)
        return {name: (found[name], when) for name, when in zip(left, times, strict=True)}

    def remove(self, names: Iterable[str]) -> None:
        """Remove leftovers. Raises Away."""
        self._pool.map(self.server.remove, names)


def describe(entry: Path) -> dict[str, dict]:
    """All files of a folder that holds an entry, as ENTRY_FILE and the manifests state them."""
    hashes = read_json(entry / ENTRY_FILE)["files"] | {ENTRY_FILE: hash_file(entry / ENTRY_FILE)}
    files = {
        name: {"size": (entry / name).stat().st_size, "sha256": digest}
        for name, digest in hashes.items()
    }
    for file in entry.glob(f"*{MANIFEST_SUFFIX}"):
        artifact = file.with_name(file.name.removesuffix(MANIFEST_SUFFIX))
        if artifact.is_dir():
            held = manifest.read_manifest(file).files.items()
            files |= {f"{artifact.name}/{name}": stated for name, stated in held}
    return files


def _is_same(file: Path, stated: dict) -> bool:
    """Whether a file has the content that a manifest states, or the header, if it `is_header`."""
    if not file.is_file() or file.stat().st_size != stated["size"]:
        return False
    if stated.get("is_header"):
        return hash_header(file) == stated.get("header_sha256")
    return hash_file(file) == stated["sha256"]


def _get_header(fs, place: str, draft: Path) -> None:
    """Fetch the header of a file of weights."""
    with fs.open(place, block_size=2**16) as file:
        prefix = file.read(PREFIX_BYTES)
        size = min(int.from_bytes(prefix, "little"), MAX_HEADER_BYTES)
        draft.write_bytes(prefix + file.read(size))
