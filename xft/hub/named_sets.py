"""The problem sets that the configuration can name: their content and where to find them."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xft.common.errors import UserError
from xft.common.file_access import read_bytes
from xft.hub.repository import OFFLINE, cached_rows

RELEASES = "https://github.com/evalplus"
MAX_BYTES = 2**28  # of a file of problems, unpacked


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
    def identity(self) -> str:
        """What stands for the content: the SHA-256 of the variable's file, else of the release.

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

    What Release has too means the same.
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
    def identity(self) -> str:
        return f"{self.hub_id}/{self.place} at {self.revision}"

    def find(self) -> Path | None:
        """Its file in the hub's cache."""
        return cached_rows(self.hub_id, self.revision, self.place)

    @property
    def advice(self) -> str:
        return OFFLINE

    def __str__(self) -> str:
        return f"{self.title} at {self.revision[:7]}"


NamedSet = Release | Translation

HUMANEVAL = Release(
    *("humaneval", "HumanEval+", "HumanEvalPlus", "v0.1.10", 164),
    sha256="42526ec0e7d5f3ee0b06d6ced98f8c8bae3d76519151bfb3d36f79010645bd7f",
    variable="HUMANEVAL_OVERRIDE_PATH",
)
MBPP = Release(
    *("mbpp", "MBPP+", "MbppPlus", "v0.2.0", 378),
    sha256="b54e762755248ca411b523c917fa9f93c07b5ff2966bf60b3917b853926a3dad",
    variable="MBPP_OVERRIDE_PATH",
)
RELEASED = {chosen.name: chosen for chosen in (HUMANEVAL, MBPP)}
# The problems of HumanEval and of MBPP in each language that can be judged.
COUNTS = {"cpp": (161, 397), "d": (156, 358), "go": (154, 374), "java": (158, 386)}
COUNTS |= {"js": (161, 397), "lua": (161, 397), "php": (161, 397), "pl": (161, 396)}
COUNTS |= {"r": (161, 397), "rb": (161, 397), "rs": (156, 354), "sh": (158, 382), "ts": (159, 390)}
TRANSLATED = {
    f"multipl-e/{source}-{language}": Translation(f"multipl-e/{source}-{language}", number)
    for language, counts in COUNTS.items()
    for source, number in zip(RELEASED, counts, strict=True)
}
NAMED_SETS: dict[str, NamedSet] = RELEASED | TRANSLATED
BY_LABEL = {chosen.label: chosen for chosen in NAMED_SETS.values()}


def unused(labels: Iterable[str]) -> list[NamedSet]:
    """The sets that would add problems to those in use: more of EvalPlus's, and of the languages.

    labels: of the sets in use. Without a named one nothing is added, and without another language
    it is JavaScript.
    """
    used = [BY_LABEL[label] for label in labels if label in BY_LABEL]
    languages = {known.language for known in used if isinstance(known, Translation)} or {"js"}
    translated = (known for known in TRANSLATED.values() if known.language in languages)
    return [known for known in (*RELEASED.values(), *translated) if used and known not in used]


def unpacked(file: Path) -> bytes:
    """The content of a file of problems, unpacked if its name ends in .gz. Raises UserError."""
    return read_bytes(file, MAX_BYTES)


def unpacked_sha256(file: Path) -> str:
    """SHA-256 of the unpacked content. Packing does not change the problems."""
    return hashlib.sha256(unpacked(file)).hexdigest()
