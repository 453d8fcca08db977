"""The problem sets that the configuration can name, and how they are found or fetched.

A set is on this machine, or else fetched from the network.
"""

import gzip
import hashlib
import io
import os
import tomllib
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from xft.artifacts.manifest import write_manifest
from xft.common.errors import UserError, errors_at
from xft.common.file_access import read_bytes, write_whole
from xft.common.progress import say
from xft.hub.source import OFFLINE, ask_for_file, cached_rows, fetch_file, hub_errors

RELEASES = "https://github.com/evalplus"
MAX_BYTES = 2**28  # of a file of problems, unpacked
TIMEOUT = 30  # seconds without a connection or another byte
MAX_DOWNLOAD = 2**26  # bytes, packed or unpacked; what is longer is something else
CHUNK_BYTES = 2**16


@dataclass(frozen=True)
class Release:
    """The release of a problem set that EvalPlus 0.3.1 uses.

    name: in the configuration.
    title: its public name.
    release: the stem of its file.
    version: of the release.
    problems: their number.
    sha256: of the unpacked file.
    variable: the environment variable that may name another file to use instead.
    """

    name: str
    title: str
    release: str
    version: str
    problems: int
    sha256: str
    variable: str

    @property
    def label(self) -> str:
        """Its name in results."""
        return self.name

    @property
    def file(self) -> str:
        """The name of its file, once it is fetched."""
        return f"{self.name}.jsonl"

    @property
    def hub_id(self) -> str:
        """Its repository on the hub."""
        return f"evalplus/{self.release.lower()}"

    @property
    def url(self) -> str:
        """The address of the packed release."""
        repository = f"{RELEASES}/{self.release.lower()}_release"
        return f"{repository}/releases/download/{self.version}/{self.release}.jsonl.gz"

    @property
    def cached(self) -> Path:
        """The unpacked file in EvalPlus's cache."""
        from appdirs import user_cache_dir

        return Path(user_cache_dir("evalplus")) / f"{self.release}-{self.version}.jsonl"

    @property
    def override(self) -> Path | None:
        """The file that the variable names. Raises UserError if that file does not exist."""
        file = os.environ.get(self.variable)
        if file and not Path(file).is_file():
            raise UserError(f"{self.variable} names {file}, which is not a file")
        return Path(file) if file else None

    @property
    def recipe_input(self) -> str:
        """The text that stands for the content: the SHA-256 of the variable's file or the release.

        Raises UserError if the variable's file cannot be read.
        """
        return unpacked_sha256(self.override) if self.override else self.sha256

    def find(self) -> Path | None:
        """The set's file on this machine: the variable's file, else EvalPlus's cached release.

        None if neither exists. Raises UserError if the variable's file does not exist.
        """
        if self.override:
            return self.override
        is_release = self.cached.is_file() and unpacked_sha256(self.cached) == self.sha256
        return self.cached if is_release else None

    def content(self) -> tuple[bytes, str | None]:
        """The problems, and the release; None if the variable's file holds others.

        They are in the variable's file, else in EvalPlus's cache, else fetched. The latter two must
        have the pinned content. Prints the source. Raises UserError.
        """
        file = self.find()
        if file is None:
            if self.cached.is_file():
                say(f"{self.cached} is not {self}, so it is not used")
            content = _download(self)
            say(f"{self} from {self.url}")
            return content, str(self)
        content = read_bytes(file, MAX_BYTES)
        if hashlib.sha256(content).hexdigest() == self.sha256:
            say(f"{self} from {file}")
            return content, str(self)
        say(f"{file}, set by {self.variable}, is not {self}: scores are for other problems")
        return content, None

    def ask(self) -> None:
        """Ask for the release, and read nothing of it. Raises UserError if it cannot be had."""
        with _fetching(self), _answer(self.url):
            pass

    @property
    def advice(self) -> str:
        """How to put the set on a machine without network."""
        return (
            "Fetch the file on another machine and copy it here. Then set "
            f"{self.variable} to its path, or unpack it to {self.cached}"
        )

    def __str__(self) -> str:
        return f"{self.title} {self.version}"


@dataclass(frozen=True)
class Translation:
    """HumanEval or MBPP in another language: a set of MultiPL-E 3.3.

    Fields and properties that `Release` has too mean the same.
    """

    name: str
    problems: int
    hub_id: str = "nuprl/MultiPL-E"
    revision: str = "28441b6024e71d4a1c1c0f6bf171c935cd5a43f2"
    override: None = None

    @property
    def language(self) -> str:
        """MultiPL-E's name of the language."""
        return self.name.rpartition("-")[2]

    @property
    def label(self) -> str:
        return Path(self.name).name

    @property
    def title(self) -> str:
        return f"MultiPL-E {self.label}"

    @property
    def file(self) -> str:
        return f"{self.label}.parquet"

    @property
    def place(self) -> str:
        """Its file in the repository."""
        return f"{self.label}/test-00000-of-00001.parquet"

    @property
    def recipe_input(self) -> str:
        return f"{self.hub_id}/{self.place} at {self.revision}"

    def find(self) -> Path | None:
        """Its file in the hub's cache."""
        return cached_rows(self.hub_id, self.revision, self.place)

    def content(self) -> tuple[bytes, str]:
        """The problems, from the hub or from its cache, and the release."""
        file = fetch_file(self.hub_id, self.revision, self.place, "dataset")
        say(f"{self} from {self.hub_id}")
        return read_bytes(file, MAX_DOWNLOAD), str(self)

    def ask(self) -> None:
        """Ask the hub for the file, and read nothing of it. Raises UserError if it cannot be had.

        The message names the set.
        """
        with errors_at(str(self)):
            ask_for_file(self.hub_id, self.revision, self.place, "dataset")

    @property
    def advice(self) -> str:
        return OFFLINE

    def __str__(self) -> str:
        return f"{self.title} at {self.revision[:7]}"


NamedSet = Release | Translation

SETS = tomllib.loads(Path(__file__).with_name("named_sets.toml").read_text())
RELEASED = {name: Release(name, **known) for name, known in SETS["released"].items()}
TRANSLATIONS = [
    Translation(f"multipl-e/{source}-{language}", problems)
    for language, numbers in SETS["translated"].items()
    for source, problems in numbers.items()
]
TRANSLATED = {chosen.name: chosen for chosen in TRANSLATIONS}
NAMED_SETS: dict[str, NamedSet] = RELEASED | TRANSLATED
BY_LABEL = {chosen.label: chosen for chosen in NAMED_SETS.values()}


def set_in_words(label: str) -> str:
    """A data set in a sentence. The name of a file has quotes: it may be a word of it."""
    return label if label in BY_LABEL else f'"{label}"'


def unused(labels: Iterable[str]) -> list[NamedSet]:
    """The sets that would add problems to those in use: more of EvalPlus's, and of the languages.

    labels: of the sets in use. Without a named one nothing is added, and without another language
    it is JavaScript.
    """
    used = [BY_LABEL[label] for label in labels if label in BY_LABEL]
    if not used:
        return []
    languages = {known.language for known in used if isinstance(known, Translation)} or {"js"}
    translated = [known for known in TRANSLATED.values() if known.language in languages]
    return [known for known in (*RELEASED.values(), *translated) if known not in used]


def unpacked_sha256(file: Path) -> str:
    """SHA-256 of the unpacked content. Packing does not change the problems."""
    return hashlib.sha256(read_bytes(file, MAX_BYTES)).hexdigest()


def check_available(chosen: NamedSet) -> None:
    """Raise UserError unless a set is on this machine or can be fetched now. It is not fetched."""
    if chosen.find() is None:
        chosen.ask()


def fetch(chosen: NamedSet, out: Path) -> None:
    """Write the file of a named set, unpacked, whole or not at all, and its manifest.

    Raises UserError.
    """
    content, known = chosen.content()
    write_whole(out, content)
    write_manifest(out, "problems", {"dataset": chosen.name, "release": known})


def _download(chosen: Release) -> bytes:
    """The unpacked release. Raises UserError where it cannot be had, or is not the pinned one."""
    with _fetching(chosen):
        content = _get(chosen.url)
        if hashlib.sha256(content).hexdigest() != chosen.sha256:
            raise ValueError("the fetched file is not that release (its SHA-256 differs)")
    return content


def _fetching(chosen: Release) -> AbstractContextManager:
    """Turn errors of the block into a UserError that says what to do."""
    return hub_errors(f"{chosen} could not be fetched from {chosen.url}", chosen.advice)


def _get(url: str) -> bytes:
    """The unpacked file at a URL, up to a limit; nothing if there is no whole gzip file.

    Raises httpx2.HTTPError.
    """
    with _answer(url) as response:
        chunks = islice(response.iter_raw(CHUNK_BYTES), MAX_DOWNLOAD // CHUNK_BYTES)
        packed = b"".join(chunks)
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(packed)).read(MAX_DOWNLOAD)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return b""


@contextmanager
def _answer(url: str) -> Iterator[Any]:
    """The answer with the file at a URL. The caller reads the content.

    A busy server is asked again. Raises httpx2.HTTPError.
    """
    from huggingface_hub.utils import http_stream_backoff

    # The file is already packed: a server must not pack or unpack it.
    options = {"headers": {"Accept-Encoding": "identity"}, "timeout": TIMEOUT}
    with http_stream_backoff("GET", url, retry_on_exceptions=(), **options) as response:
        response.raise_for_status()
        yield response
