"""How entries lie in a bucket, which is a folder on a server. fsspec reads and writes it.

    URL/STEP/DIGEST/entry.json    an entry: the manifest of all of its files
    URL/files/SHA256              the content of files, once for all entries that have it

The manifest comes last: where it is missing, there is no entry. The name of a content is its hash.
So two machines that publish at once write the same bytes, and what a killed upload left serves the
next one. No name that a bucket states leads out of an entry (`manifest.as_manifest`).
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from threading import Lock
from uuid import uuid4

from fsspec.callbacks import Callback
from fsspec.core import url_to_fs

from xft.artifacts import manifest
from xft.artifacts.artifact import ENTRY_FILE, sync
from xft.artifacts.manifest import MANIFEST_SUFFIX, Manifest, hash_file
from xft.checkpoints.model_files import MAX_HEADER_BYTES, PREFIX_BYTES, hash_header
from xft.common.errors import UserError
from xft.common.json_files import MAX_JSON, json_object, read_json
from xft.store.store import DIGEST, all_faults, claimed, fetched, is_whole

AT_ONCE = 8  # files that are transferred; of those of more than SMALL bytes one is uploaded
SMALL = 2**23
CHUNK, CHUNKS = 25 * 2**20, 4  # bytes of a file that is uploaded, and how often, in memory
FILES = "files"
DRAFT = ".tmp"
# A put into these appears while it is written, so it gets another name first.
FILE_SYSTEMS = ("file", "sftp")
# Of file systems, by scheme: limits of time and of retries.
SETTINGS = {
    "s3": {
        "config_kwargs": {
            "connect_timeout": 10,
            "read_timeout": 60,
            "retries": {"max_attempts": 2},
            "max_pool_connections": CHUNKS + AT_ONCE,
        }
    },
    "az": {"connection_timeout": 10, "read_timeout": 60, "max_concurrency": CHUNKS},
    "file": {"auto_mkdir": True},
    "sftp": {"timeout": 10},
}
# Options of transfers: what is in memory.
PUT = {"s3": {"chunksize": CHUNK, "max_concurrency": CHUNKS}, "gs": {"chunksize": CHUNK}}
GET = {"s3": {"max_concurrency": 1}}

ENTRY = re.compile(rf"\w+/{DIGEST.pattern}/{ENTRY_FILE}")
LEFT = re.compile(rf"{FILES}/[0-9a-f]{{64}}$|.*{re.escape(DRAFT)}$")
Files = Mapping[str, dict]  # as in `Manifest.files`


class Away(UserError):
    """A server is away, too slow, or refuses."""


class _Watch(Callback):
    """Reports the bytes of a file on their way. More of them than stated end the transfer."""

    def __init__(self, name: str, size: int, report: Callable[[int], object]):
        super().__init__()
        self.name, self.left, self.report = name, size, report

    def relative_update(self, inc: int = 1) -> None:
        self.left -= inc
        if self.left < 0:
            raise UserError(f"{self.name} has more bytes than its entry states")
        self.report(inc)

    def end(self) -> None:
        """Report what the file system did not."""
        self.report(self.left)


class Bucket:
    """A bucket."""

    def __init__(self, url: str):
        self.url, self.scheme = url.rstrip("/"), url.partition("://")[0]
        self._faults: list[str] = []
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._sizes: dict[str, int] = {}
        self._large = Lock()

    @property
    def away(self) -> str | None:
        """Why it is not used any more: the first of what may be several faults at once."""
        return self._faults[0] if self._faults else None

    @cached_property
    def _place(self) -> tuple:
        new = {"use_listings_cache": False, "skip_instance_cache": True}
        settings = new | SETTINGS.get(self.scheme, {})
        return url_to_fs(self.url, **settings)

    @contextmanager
    def _reached(self, name: str | None = None) -> Iterator:
        """The file system. Raises Away if the server cannot be used, and from then on.

        name: of what is read, in messages. Raises UserError if it is missing.
        """
        if self.away:
            raise Away(self.away)
        try:
            yield self.fs
        except UserError:
            raise
        except Exception as error:  # of the scheme's library
            if name and isinstance(error, FileNotFoundError):
                raise UserError(f"{name} is missing") from None
            said = str(error).strip().partition("\n")[0][:200]
            self._faults.append(f"{self.url}: {said or type(error).__name__}")
            raise Away(self.away) from None

    @property
    def fs(self):
        """The file system."""
        return self._place[0]

    def named(self, *parts: str) -> str:
        """A name in it."""
        return "/".join([self._place[1].rstrip("/"), *parts])

    def held(self, steps: Iterable[str]) -> set[str]:
        """The entries of some steps, as STEP/DIGEST. Raises Away."""
        for sizes in self._pool.map(self._held, dict.fromkeys(steps)):
            self._sizes |= sizes
        return set(self._sizes)

    def _held(self, step: str) -> dict[str, int]:
        """The sizes of the manifests of a step's entries, by STEP/DIGEST."""
        with self._reached() as fs:
            found = fs.find(self.named(step), detail=True)
        places = {PurePosixPath(file): state["size"] for file, state in found.items()}
        return {
            f"{step}/{file.parent.name}": size
            for file, size in places.items()
            if file.name == ENTRY_FILE
        }

    def files_of(self, place: str) -> Files:
        """The files of an entry, which is named STEP/DIGEST.

        Raises UserError if its manifest is damaged or not there.
        """
        name = f"{self.url}/{place}/{ENTRY_FILE}"
        if self._sizes.get(place, 0) > MAX_JSON:
            raise UserError(f"{name} is not a manifest: it is too large")
        with self._reached(name) as fs:
            content = fs.cat_file(self.named(place, ENTRY_FILE))
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
        if faults := all_faults(entry, full=False):
            raise UserError("; ".join(faults))
        files, name = describe(entry), self.named(place_of(entry), ENTRY_FILE)
        with self._reached() as fs:
            put = partial(self._put, entry, fs.exists(name), report)
        self._of_each(put, files)
        stated = Manifest("entry", files, {"entry": place_of(entry)})
        with self._reached():
            self._write(stated.to_json().encode(), name)

    def _put(self, entry: Path, is_there: bool, report: Callable, file: str, stated: dict) -> None:
        if not _is_same(entry / file, stated):
            raise UserError(f"{entry / file} was altered")
        name, watch = self.named(FILES, stated["sha256"]), _Watch(file, stated["size"], report)
        with self._reached() as fs:
            may_be_there = not is_there and stated["size"] > SMALL
            if not (may_be_there and fs.exists(name) and fs.size(name) == stated["size"]):
                with self._large if stated["size"] > SMALL else nullcontext():
                    self._write(entry / file, name, watch)
        watch.end()

    def _write(self, content: Path | bytes, name: str, watch: Callback | None = None) -> None:
        """Put a file, or bytes, so that it appears at once."""
        fs, is_drafted = self.fs, self.scheme in FILE_SYSTEMS
        written = f"{name}.{uuid4().hex}{DRAFT}" if is_drafted else name
        if is_drafted:
            fs.makedirs(name.rpartition("/")[0], exist_ok=True)
        if isinstance(content, bytes):
            fs.pipe_file(written, content)
        else:
            fs.put_file(str(content), written, callback=watch, **PUT.get(self.scheme, {}))
        if is_drafted:
            fs.mv(written, name)

    def fetch(self, entry: Path, files: Files, report: Callable[[int], object]) -> None:
        """Fetch an entry with these files, which becomes whole by one rename.

        What an earlier attempt fetched is not fetched again. Raises UserError if a file is damaged
        or missing, if the entry is not what its name says, or if a process makes it, or Away.
        """
        folder = fetched(entry)
        with claimed(entry):
            if is_whole(entry):
                return
            self.fetch_part(entry, files, report)
            faults = all_faults(folder, full=False)
            if not faults and describe(folder) != files:
                faults = [f"{self.url}/{place_of(entry)} has other files than it states"]
            if faults:
                shutil.rmtree(folder)
                raise UserError("; ".join(faults))
            for path in folder.glob("*/**/*"):
                if path.is_file():
                    path.chmod(0o444)  # as `create_artifact` does
            sync(folder)
            entry.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(entry)

    def fetch_part(
        self, entry: Path, files: Files, report: Callable[[int], object] = lambda count: None
    ) -> None:
        """Fetch files of an entry to where it is not whole. Raises UserError as `fetch` does."""
        get = partial(self._get, fetched(entry), report)
        self._of_each(get, files)

    def _of_each(self, work: Callable, files: Files) -> None:
        """Do work with each file, its name and what is stated. All end before a fault is raised."""
        works = [self._pool.submit(work, *item) for item in files.items()]
        wait(works)
        for done in works:
            done.result()

    def _get(self, folder: Path, report: Callable, file: str, stated: dict) -> None:
        name = f"{self.url}/{FILES}/{stated['sha256']} ({file})"
        target, place = folder / file, self.named(FILES, stated["sha256"])
        draft = target.with_name(f".{target.name}{DRAFT}")
        watch = _Watch(name, stated["size"], report)
        if not _is_same(target, stated):
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._reached(name) as fs:
                if stated.get("is_header"):
                    prefix = fs.cat_file(place, start=0, end=PREFIX_BYTES)
                    end = PREFIX_BYTES + min(int.from_bytes(prefix, "little"), MAX_HEADER_BYTES)
                    draft.write_bytes(fs.cat_file(place, start=0, end=end))
                    os.truncate(draft, stated["size"])
                else:
                    options = GET.get(self.scheme, {})
                    fs.get_file(place, str(draft), callback=watch, **options)
                    with draft.open("rb") as file:
                        os.fsync(file.fileno())
            if not _is_same(draft, stated):
                raise UserError(f"{name} was altered")
            draft.replace(target)
        watch.end()

    def leftovers(self) -> dict[str, tuple[int, float]]:
        """What no entry names, such as what killed uploads left, with its bytes and its time.

        Raises UserError if the manifest of an entry is damaged: it may name more. Raises Away.
        """
        with self._reached() as fs:
            found = fs.find(self.named(), detail=True)
        names = {file.removeprefix(self.named()).strip("/"): file for file in found}
        places = [name.removesuffix(f"/{ENTRY_FILE}") for name in names if ENTRY.fullmatch(name)]
        stated = [
            file for files in self._pool.map(self.files_of, places) for file in files.values()
        ]
        used = {f"{FILES}/{file['sha256']}" for file in stated}
        left = [name for name in names if LEFT.match(name) and name not in used]
        with self._reached() as fs:
            times = self._pool.map(lambda name: fs.modified(names[name]).timestamp(), left)
            return {n: (found[names[n]]["size"], time) for n, time in zip(left, times, strict=True)}

    def remove(self, names: Iterable[str]) -> None:
        """Remove leftovers. Raises Away."""
        with self._reached() as fs:
            for name in names:
                fs.rm_file(self.named(name))


def place_of(entry: Path) -> str:
    """The name of an entry in buckets: STEP/DIGEST."""
    return f"{entry.parent.name}/{entry.name}"


def describe(entry: Path) -> dict[str, dict]:
    """All files of a folder that holds an entry, as ENTRY_FILE and the manifests state them."""
    hashes = read_json(entry / ENTRY_FILE)["files"]
    hashes = hashes | {ENTRY_FILE: hash_file(entry / ENTRY_FILE)}
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
