"""The problem sets that the configuration can name: their content and where to find them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from xft.common.errors import UserError
from xft.common.files import read_bytes

RELEASES = "https://github.com/evalplus"
MAX_BYTES = 2**28  # of a file of problems, unpacked


@dataclass(frozen=True)
class NamedSet:
    """The release of a problem set that EvalPlus 0.3.1 uses.

    name: in the configuration and the results.
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
    def wanted_sha256(self) -> str:
        """The SHA-256 of the content to use: the variable's file if it is set, else the release.

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

    def __str__(self) -> str:
        return f"{self.title} {self.version}"


HUMANEVAL = NamedSet(
    *("humaneval", "HumanEval+", "HumanEvalPlus", "v0.1.10", 164),
    sha256="42526ec0e7d5f3ee0b06d6ced98f8c8bae3d76519151bfb3d36f79010645bd7f",
    variable="HUMANEVAL_OVERRIDE_PATH",
)
MBPP = NamedSet(
    *("mbpp", "MBPP+", "MbppPlus", "v0.2.0", 378),
    sha256="b54e762755248ca411b523c917fa9f93c07b5ff2966bf60b3917b853926a3dad",
    variable="MBPP_OVERRIDE_PATH",
)
NAMED_SETS = {chosen.name: chosen for chosen in (HUMANEVAL, MBPP)}


def unpacked(file: Path) -> bytes:
    """The content of a file of problems, unpacked if its name ends in .gz. Raises UserError."""
    return read_bytes(file, MAX_BYTES)


def unpacked_sha256(file: Path) -> str:
    """SHA-256 of the unpacked content. Packing does not change the problems."""
    return hashlib.sha256(unpacked(file)).hexdigest()
