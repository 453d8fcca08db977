"""How entries lie in a bucket, which is a folder on a server. fsspec reads and writes it.

    URL/STEP/DIGEST/entry.json    an entry: the manifest of all of its files
    URL/files/SHA256              the content of files, once for all entries that have it

The manifest comes last: where it is missing, there is no entry. The name of a content is its hash.
So two machines that publish at once write the same bytes, and what a killed upload left serves the
next one. No name that a bucket states leads out of an entry (`manifest.as_manifest`).
"""

import atexit
import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Lock, Thread
from uuid import uuid4

from fsspec import get_filesystem_class
from fsspec.callbacks import Callback
from fsspec.core import url_to_fs

from xft.artifacts import manifest
from xft.artifacts.artifact import ENTRY_FILE, sync
from xft.artifacts.manifest import MANIFEST_SUFFIX, Manifest, hash_file
from xft.checkpoints.model_files import MAX_HEADER_BYTES, PREFIX_BYTES, hash_header
from xft.common.errors import UserError
from xft.common.json_files import MAX_JSON, json_object, read_json
from xft.store.store import DIGEST, all_faults, claimed, fetched, is_whole, place_of

SILENT = 10  # seconds that a request lasts until the server is asked whether it is still there
PATIENCE = 20  # seconds that its answer to this may last
SILENCE = "the server does not answer"
AT_ONCE = 8  # files that are transferred; of those of more than SMALL bytes one is uploaded
SMALL = 2**23
CHUNK, CHUNKS = 25 * 2**20, 4  # bytes of a file that is uploaded, and how often, in memory
FILES = "files"
NOTHING = "nothing"  # a folder that no bucket has: to list it is a small request
DRAFT = ".tmp"
# A put into these appears while it is written, so it gets another name first.
FILE_SYSTEMS = ("file", "sftp")
LIMITS = {"retries": {"max_attempts": 2}, "max_pool_connections": CHUNKS + AT_ONCE}
FRESH = {"use_listings_cache": False}
# Of file systems, by scheme.
SETTINGS = {
    "s3": {"config_kwargs": LIMITS | {"connect_timeout": 10, "read_timeout": 60}, **FRESH},
    "gs": FRESH,
    "az": {"connection_timeout": 10, "read_timeout": 60, "max_concurrency": CHUNKS, **FRESH},
    "file": {"auto_mkdir": True},
    "sftp": {"known_hosts": ()},  # those of the user's files: otherwise any host is trusted
}
# gcsfs otherwise asks for the kind of the bucket, which not all servers and credentials allow.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints stack traces of what is told here
# Options of transfers: what is in memory.
PUT = {"s3": {"chunksize": CHUNK, "max_concurrency": CHUNKS}, "gs": {"chunksize": CHUNK}}
GET = {"s3": {"max_concurrency": 1}}

ENTRY = re.compile(rf"\w+/{DIGEST.pattern}/{ENTRY_FILE}")
LEFT = re.compile(rf"{FILES}/[0-9a-f]{{64}}$|.*{re.escape(DRAFT)}$")
Files = Mapping[str, dict]  # as in `Manifest.files`
# What names, sizes and nested objects lead to that an entry states and no machine takes.
UNUSABLE = (OSError, UnicodeError, OverflowError, RecursionError)
# Of a machine that takes no entry at all.
OF_THIS_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


class Away(UserError):
    """A server is away, too slow, or refuses."""


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
        """What an update of `value` calls."""
        if max(self.value, self.size or 0) > self.stated:
            raise UserError(f"{self.name} has more bytes than its entry states")
        self.report(self.value - self.told)
        self.told = self.value

    def end(self) -> None:
        """Report what the file system did not."""
        self.absolute_update(self.stated)


class Bucket:
    """A bucket."""

    def __init__(self, url: str):
        self.url, self.scheme = url.rstrip("/"), url.partition("://")[0]
        self.away: str | None = None  # why it is not used any more
        self._sizes, self._large, self._asking, self._heard = {}, Lock(), Lock(), 0.0

    @cached_property
    def fs(self):
        """The file system. It may connect to the server."""
        if self.scheme == "hf":
            from xft.store.hub_files import HubFiles  # imports huggingface_hub

            return HubFiles(skip_instance_cache=True)
        return url_to_fs(self.url, skip_instance_cache=True, **SETTINGS.get(self.scheme, {}))[0]

    @cached_property
    def _root(self) -> str:
        return get_filesystem_class(self.scheme)._strip_protocol(self.url).rstrip("/")

    @cached_property
    def _pool(self) -> ThreadPool:
        """The end of the process does not wait for its threads: a transfer may last for hours."""
        pool = ThreadPool(AT_ONCE)
        atexit.register(pool.terminate)
        return pool

    def _ask(self, work: Callable, name: str | None = None):
        """What work with the file system gives. Raises Away if the server cannot be used, or does
        not answer, and from then on.

        name: of what is read, in messages. Raises UserError if it is missing.
        """
        if self.away:
            raise Away(self.away)
        try:
            answer = self._begin(work)
            while not wait([answer], SILENT).done:
                self._check_answers()
            return answer.result()
        except UserError:
            raise
        except Exception as error:  # of the scheme's library
            # The rest of the line may be that of a signed URL.
            said = str(error).strip("\n .").partition("\n")[0].partition("?")[0][:200]
            if isinstance(error, FileNotFoundError):
                if name:
                    raise UserError(f"{name} is missing") from None
                said = f"not found, or not with these credentials: {said}"
            raise self._failed(said or type(error).__name__) from None

    def _begin(self, work: Callable) -> Future:
        """Begin work in a thread that the end of the process does not wait for."""
        answer = Future()

        def run() -> None:
            try:
                answer.set_result(work(self.fs))
            except Exception as error:
                answer.set_exception(error)
            except BaseException as error:  # such as asyncio's CancelledError: it would end a pool
                answer.set_exception(OSError(repr(error)))

        Thread(target=run, daemon=True).start()
        return answer

    def _check_answers(self) -> None:
        """Raise Away if the server does not answer a small request, on a connection of its own."""
        with self._asking:
            if self.away:
                raise Away(self.away)
            if time.monotonic() - self._heard > SILENT:
                answer = Bucket(self.url)._begin(lambda fs: fs.find(self.named(NOTHING)))
                if not wait([answer], PATIENCE).done:
                    raise self._failed(SILENCE)
                answer.result()
                self._heard = time.monotonic()

    def _failed(self, fault: str) -> Away:
        self.away = self.away or f"{self.url}: {fault}"
        return Away(self.away)

    def named(self, *parts: str) -> str:
        """A name in it."""
        return "/".join([self._root, *parts])

    def _find(self, *parts: str) -> dict[str, int]:
        """The sizes of all files below a folder, by their names in the bucket."""
        folder, is_tree = self.named(*parts), self.scheme in FILE_SYSTEMS
        found = self._ask(lambda fs: _walk(fs, folder) if is_tree else fs.find(folder, detail=True))
        return {n.removeprefix(self._root).strip("/"): item["size"] for n, item in found.items()}

    def check(self) -> None:
        """Raise Away if it cannot be used."""
        self._find(NOTHING)

    def held(self, steps: Iterable[str]) -> set[str]:
        """The entries of some steps, as STEP/DIGEST. Raises Away."""
        self._ask(lambda fs: fs.invalidate_cache())  # of hf, which has no setting for this
        for sizes in self._pool.map(self._find, dict.fromkeys(steps), 1):
            self._sizes |= sizes
        return {name.rpartition("/")[0] for name in self._sizes if ENTRY.fullmatch(name)}

    def sizes(self) -> dict[str, int]:
        """The sizes of all contents, by hash. Raises Away."""
        return {name.rpartition("/")[2]: size for name, size in self._find(FILES).items()}

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
        content = self._ask(lambda fs: fs.cat_file(self.named(place, ENTRY_FILE)), name)
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
        files, name = describe(entry), self.named(place_of(entry), ENTRY_FILE)
        put = partial(self._put, entry, self._ask(lambda fs: fs.exists(name)), report)
        small = self._put_small(entry, files, report) if self.scheme == "hf" else {}
        self._of_each(put, {file: files[file] for file in files.keys() - small})
        stated = Manifest("entry", files, {"entry": place_of(entry)})
        self._ask(partial(self._write, stated.to_json().encode(), name, None))

    def _put_small(self, entry: Path, files: Files, report: Callable) -> Files:
        """Put the small files of an entry together, as the hub counts requests. Returns them."""
        small = {file: stated for file, stated in files.items() if stated["size"] <= SMALL}
        names = {self.named(FILES, stated["sha256"]): file for file, stated in small.items()}
        self._ask(lambda fs: fs.put([str(entry / file) for file in names.values()], [*names]))
        report(sum(stated["size"] for stated in small.values()))
        return small

    def _put(self, entry: Path, is_there: bool, report: Callable, file: str, stated: dict) -> None:
        if not _is_same(entry / file, stated):
            raise UserError(f"{entry / file} was altered")
        name, size = self.named(FILES, stated["sha256"]), stated["size"]
        watch = _Watch(file, size, report)
        write = partial(self._write, entry / file, name, watch)
        if size <= SMALL:
            self._ask(write)
        elif is_there or not self._ask(lambda fs: fs.exists(name) and fs.size(name) == size):
            with self._large:
                self._ask(write)
        watch.end()

    def _write(self, content: Path | bytes, name: str, watch: Callback | None, fs) -> None:
        """Put a file, or bytes, so that it appears at once."""
        is_drafted = self.scheme in FILE_SYSTEMS
        written = f"{name}.{uuid4().hex}{DRAFT}" if is_drafted else name
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
        target, place = folder / file, self.named(FILES, stated["sha256"])
        draft = target.with_name(f".{target.name}{DRAFT}")
        watch = _Watch(name, stated["size"], report)
        if not _is_same(target, stated):
            target.parent.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)  # a request that was given up may still write there
            if stated.get("is_header"):
                self._ask(partial(_get_header, place=place, draft=draft), name)
                os.truncate(draft, stated["size"])
            else:
                options = {"callback": watch} | GET.get(self.scheme, {})
                self._ask(lambda fs: fs.get_file(place, str(draft), **options), name)
            if not _is_same(draft, stated):
                draft.unlink(missing_ok=True)
                raise UserError(f"{name} was altered")
            draft.replace(target)
        watch.end()

    def now(self) -> float:
        """The time by the clock of the server: that of a file which is written there and removed.

        Raises Away.
        """
        name = f"now.{uuid4().hex}{DRAFT}"
        self._ask(lambda fs: fs.pipe_file(self.named(name), name.encode()))
        written = self._time_of(name)
        self.remove([name])
        return written

    def _time_of(self, name: str) -> float:
        return self._ask(lambda fs: fs.modified(self.named(name))).timestamp()

    def leftovers(self) -> dict[str, tuple[int, float]]:
        """What no entry names, such as what killed uploads left, with its bytes and its time by the
        clock of the server.

        Raises UserError if the manifest of an entry is damaged: it may name more. Raises Away.
        """
        found = self._find()
        places = [name.rpartition("/")[0] for name in found if ENTRY.fullmatch(name)]
        stated = (files.values() for files in self._pool.map(self.files_of, places))
        used = {f"{FILES}/{file['sha256']}" for file in chain(*stated)}
        left = [name for name in found if LEFT.match(name) and name not in used]
        times = self._pool.map(self._time_of, left)
        return {name: (found[name], when) for name, when in zip(left, times, strict=True)}

    def remove(self, names: Iterable[str]) -> None:
        """Remove leftovers. Raises Away."""
        files = map(self.named, names)
        self._pool.map(lambda file: self._ask(lambda fs: fs.rm_file(file)), files)


def _walk(fs, folder: str) -> dict[str, dict]:
    """What `find` gives. But `find` passes over folders that cannot be read."""
    found = {}
    with suppress(FileNotFoundError):
        for item in fs.ls(folder, detail=True):
            is_folder = item["type"] == "directory"
            found |= _walk(fs, item["name"]) if is_folder else {item["name"]: item}
    return found


def describe(entry: Path) -> dict[str, dict]:
    """All files of a folder that holds an entry, as ENTRY_FILE and the manifests state them."""
    hashes = read_json(entry / ENTRY_FILE)["files"] | {ENTRY_FILE: hash_file(entry / ENTRY_FILE)}
    files = {n: {"size": (entry / n).stat().st_size, "sha256": h} for n, h in hashes.items()}
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
