"""Other stores: folders and buckets. Takes artifacts from them, and brings them into buckets."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing import TimeoutError
from multiprocessing.pool import ThreadPool
from pathlib import Path

from xft.common.errors import UserError, counted, listed
from xft.common.file_access import write_whole
from xft.common.optional import require
from xft.common.progress import progress, say
from xft.store.store import MARK, all_faults, is_whole, place_of

AT_ONCE = 8  # entries that are transferred
SILENT = ".silent"  # in a store: names the bucket that did not answer a job, for other jobs
RETRY = 600  # seconds after which a job asks this bucket again
READ_BY_PEOPLE = ("summary", "report")  # steps whose artifacts are taken from nobody
say_once = cache(say)


def is_url(store: str) -> bool:
    """Whether a store is a bucket."""
    return "://" in store


@cache
def bucket(url: str):
    """The bucket at a URL, the same one for all who ask."""
    from xft.store.remote import Bucket  # imports fsspec

    return Bucket(url)


def check(stores: Sequence[str]) -> None:
    """Raise UserError if one of the folders is no store, or if a URL needs a missing package."""
    for store in stores:
        if is_url(store):
            require(f"{store.partition('://')[0]}://")
        elif not Path(store, MARK).is_file():
            raise UserError(f"config: stores: {store} is no store: it has no {MARK}")


def find(stores: Sequence[str], node) -> list[Path]:
    """The entries of an artifact in the folders among these stores, if it may be taken."""
    if node.step in READ_BY_PEOPLE:
        return []
    entries = [Path(store, node.step, node.digest) for store in stores if not is_url(store)]
    return [entry for entry in entries if is_whole(entry)]


def take(stores: Sequence[str], nodes: Iterable) -> None:
    """Link each missing artifact that a folder among the stores holds, after a check of its bytes.

    A damaged one is told and not taken.
    """
    for node in nodes:
        for entry in find(stores, node):
            if not is_whole(node.entry):
                _link(entry, node.entry, node.name)


def _link(theirs: Path, ours: Path, name: str) -> None:
    if faults := all_faults(theirs):
        say(f"{name} is not taken from {theirs}: {'; '.join(faults)}")
        return
    ours.parent.mkdir(parents=True, exist_ok=True)
    if ours.is_symlink():  # to what is gone
        ours.unlink()
    ours.symlink_to(theirs.absolute())
    say(f"{name} is taken from {theirs}")


class Offer:
    """The artifacts that the buckets among some stores hold.

    buckets: of each that one of them holds. A bucket that fails with it is taken out.
    """

    def __init__(self, stores: Sequence[str], nodes: Collection):
        """All entries are asked for together. A bucket that does not answer, or holds nothing of
        them, is told once.
        """
        self.buckets: dict[object, list] = {}
        nodes = [node for node in nodes if is_shared(node)]
        for source in map(bucket, filter(is_url, stores)):
            places = _held(source, (node.step for node in nodes))
            held = [node for node in nodes if place_of(node.entry) in (places or ())]
            for node in held:
                self.buckets.setdefault(node, []).append(source)
            if nodes and places is not None and not held:
                say_once(f"{source.url} holds nothing that is missing here")

    def __contains__(self, node) -> bool:
        return node in self.buckets

    def files(self, nodes: Iterable) -> dict[object, dict]:
        """The files of artifacts, as in `Manifest.files`. What is damaged is told."""

        def read(source, node, _) -> dict:
            return source.files_of(place_of(node.entry))

        stated = self._of_each("read", nodes, read)
        return {node: files for node, files in stated.items() if files}

    def fetch(self, nodes: Iterable) -> None:
        """Fetch artifacts into the store. What is damaged is told, and not fetched."""
        files = self.files(nodes)
        size = sum(map(size_of, files.values()))

        def fetch(source, node, report: Callable) -> None:
            source.fetch(node.entry, files[node], report)

        self._of_each("fetch", files, fetch, size)
        taken = Counter(self.buckets[node][0].url for node in files if is_whole(node.entry))
        for url, number in taken.items():
            say(f"{counted(number, 'artifact')} taken from {url}")

    def fetch_parts(self, nodes: Iterable, reads: Callable[[str, Mapping], dict]) -> None:
        """Fetch some files of missing artifacts, which do not become whole.

        reads: gives those of a step's entry, out of all its files.
        """
        files = self.files(node for node in nodes if node in self and not is_whole(node.entry))
        parts = {node: reads(node.step, stated) for node, stated in files.items()}

        def fetch(source, node, _) -> None:
            source.fetch_part(node.entry, parts[node])

        self._of_each("fetch parts", parts, fetch)

    def _of_each(self, desc: str, nodes: Iterable, work: Callable, size: int | None = None) -> dict:
        """The results of work with a bucket and an artifact; None where it fails, which is told.

        desc, size and what work also gets: see `_results`.
        """

        def attempt(node, report: Callable) -> object:
            source = self.buckets[node][0]
            try:
                return work(source, node, report)
            except UserError as error:
                self.buckets[node].remove(source)
                if not self.buckets[node]:
                    del self.buckets[node]
                if source.away:
                    say_once(f"{error}. The run goes on without it")
                else:
                    say(f"{node.name} is not taken from {source.url}: {error}")
            return None

        nodes = list(nodes)
        return dict(zip(nodes, _results(desc, nodes, attempt, size), strict=True))


def _results(desc: str, items: Collection, work: Callable, size: int | None = None) -> list:
    """The results of work with each item, in order. Work also gets a function to report bytes.

    desc: of the progress. size: of all items, in bytes. Without it, the progress counts the items.
    """
    counts = size is None
    unit = {"unit": "artifact"} if counts else {"unit": "B", "unit_scale": True}
    total = len(items) if counts else size
    # An interrupt does not wait for the threads of the pool.
    with progress(desc=desc, total=total, **unit) as bar, ThreadPool(AT_ONCE) as pool:
        done, results = [], pool.imap(lambda item: work(item, bar.update), items)
        while len(done) < len(items):
            with suppress(TimeoutError):
                done.append(results.next(1))
            bar.update(len(done) - bar.n if counts else 0)  # 0: the time is shown
        return done


def answers(url: str, store: Path) -> bool:
    """Whether a bucket can be used. If not, this is told. Jobs of this store ask it again."""
    (store / SILENT).unlink(missing_ok=True)
    try:
        bucket(url).check()
    except UserError as error:
        say_once(f"{error}. The run goes on without it")
        return False
    return True


def _held(source, steps: Iterable[str]) -> set[str] | None:
    """The entries of some steps in a bucket; None if it cannot be used, which is told once."""
    try:
        return source.held(steps)
    except UserError as error:
        say_once(f"{error}. The run goes on without it")
    return None


def is_shared(node) -> bool:
    """Whether an artifact goes into buckets and comes from them.

    Each machine makes what people read, links to the user's files or to `ffn`'s experts, and merges
    that are not kept.
    """
    is_users = node.step == "base" and any(item.node is None for item in node.inputs)
    is_here = is_users or node.step in ("ffn", *READ_BY_PEOPLE)
    return not (is_here or node.is_temporary)


def unpublished(url: str, nodes: Iterable, looks: bool = False) -> dict[object, int]:
    """The whole ones of some artifacts that a bucket should hold and lacks, with their bytes.

    A damaged one has no bytes. looks: also at the sizes of all contents. Raises UserError if the
    bucket does not answer.
    """
    from xft.store.remote import describe  # imports fsspec

    shared = [node for node in nodes if is_shared(node) and is_whole(node.entry)]
    places = bucket(url).held(node.step for node in shared)
    sizes = bucket(url).sizes() if looks else {}
    lacking = {}
    for node in shared:
        is_there = place_of(node.entry) in places
        if is_there and not looks:
            continue
        is_damaged = bool(all_faults(node.entry, full=False))
        files = {} if is_damaged else describe(node.entry)
        contents = {(file["sha256"], file["size"]) for file in files.values()}
        if is_damaged or not is_there or not contents <= sizes.items():
            lacking[node] = size_of(files)
    return lacking


def push(url: str, sizes: Mapping[object, int]) -> None:
    """Upload artifacts with these sizes. Raises UserError with what cannot be uploaded."""
    total = sum(sizes.values())
    told = _results("upload", sizes, lambda node, report: publish(url, node.entry, report), total)
    if faults := list(filter(None, told)):
        count = f"{len(faults)} of {len(sizes)} artifacts cannot be uploaded"
        raise UserError(f"{count}:\n{listed([*dict.fromkeys(faults)])}")


def publish(url: str, entry: Path, report: Callable = lambda count: None) -> str | None:
    """Upload an entry. Returns why it is not uploaded; None if it is. report: gets bytes."""
    try:
        bucket(url).push(entry, report)
    except (UserError, OSError, ImportError) as error:
        return str(error)
    return None


def publish_for_job(url: str, entry: Path) -> str | None:
    """Upload an entry as `publish` does, unless the bucket has just been silent to another job."""
    from xft.store.server import SILENCE  # imports fsspec

    note, silence = entry.parents[1] / SILENT, f"{url.rstrip('/')}: {SILENCE}"
    with suppress(OSError):
        if note.read_text() == silence and time.time() - note.stat().st_mtime < RETRY:
            return silence
    fault = publish(url, entry)
    if fault == silence:
        write_whole(note, silence)
    return fault


def size_of(files: Mapping[str, dict]) -> int:
    """The bytes of files, as in `Manifest.files`."""
    return sum(stated["size"] for stated in files.values())
