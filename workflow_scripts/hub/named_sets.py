"""The sets of problems that are known by a name: which content is meant, and where it may lie."""

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.common.errors import UserError

RELEASES = "https://github.com/evalplus"


@dataclass(frozen=True)
class NamedSet:
    """A release of EvalPlus: the one that EvalPlus 0.3.1 judges by.

    name: in the configuration and the results. title: what its makers call it. release: the stem of
    its file. sha256: of the unpacked file. variable: names a file to be taken in its place.
    """

    name: str
    title: str
    release: str
    version: str
    sha256: str
    variable: str

    @property
    def url(self) -> str:
        """Where EvalPlus publishes it, packed."""
        repository = f"{RELEASES}/{self.release.lower()}_release"
        return f"{repository}/releases/download/{self.version}/{self.release}.jsonl.gz"

    @property
    def cached(self) -> Path:
        """Where EvalPlus keeps it, unpacked."""
        from appdirs import user_cache_dir

        return Path(user_cache_dir("evalplus")) / f"{self.release}-{self.version}.jsonl"

    @property
    def override(self) -> Path | None:
        """The file that the variable names. Raises UserError where there is none of that name."""
        file = os.environ.get(self.variable)
        if file and not Path(file).is_file():
            raise UserError(f"{self.variable} names {file}, which is not a file")
        return Path(file) if file else None

    @property
    def wanted_sha256(self) -> str:
        """Of the content that the name stands for here: the release's, unless the variable is set.

        Raises UserError where the variable names no file that can be read.
        """
        return unpacked_sha256(self.override) if self.override else self.sha256

    def find(self) -> Path | None:
        """Its file on this machine: the variable's as it is, else EvalPlus's if it is the release.

        Raises UserError where the variable names no file.
        """
        if self.override:
            return self.override
        is_release = self.cached.is_file() and unpacked_sha256(self.cached) == self.sha256
        return self.cached if is_release else None

    def __str__(self) -> str:
        return f"{self.title} {self.version}"


HUMANEVAL = NamedSet(
    name="humaneval",
    title="HumanEval+",
    release="HumanEvalPlus",
    version="v0.1.10",
    sha256="42526ec0e7d5f3ee0b06d6ced98f8c8bae3d76519151bfb3d36f79010645bd7f",
    variable="HUMANEVAL_OVERRIDE_PATH",
)
MBPP = NamedSet(
    name="mbpp",
    title="MBPP+",
    release="MbppPlus",
    version="v0.2.0",
    sha256="b54e762755248ca411b523c917fa9f93c07b5ff2966bf60b3917b853926a3dad",
    variable="MBPP_OVERRIDE_PATH",
)
NAMED_SETS = {chosen.name: chosen for chosen in (HUMANEVAL, MBPP)}


def unpacked(file: Path) -> bytes:
    """The content of a file, unpacked if its name ends in .gz. Raises UserError."""
    content = file.read_bytes()
    if file.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read: {error}") from None


def unpacked_sha256(file: Path) -> str:
    """SHA-256 of the unpacked content: packing makes no other problems of them."""
    return hashlib.sha256(unpacked(file)).hexdigest()
