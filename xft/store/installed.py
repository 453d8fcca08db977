"""The code and the packages that a run began with: what changes while it is on ends its jobs."""

import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from xft.store.code import Code
from xft.store.file_hashes import FileHashCache
from xft.store.job_records import plan_file, reading

# The packages that decide about results.
PACKAGES = (
    *("torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy", "datasets"),
    *("deepspeed", "peft", "bitsandbytes", "evalplus", "vllm", "scipy", "pandas"),
)


@dataclass(frozen=True)
class Installed:
    """The code and the packages of a run when it began.

    code: the hash of each file that decides about the result of a step, by step.
    packages: the versions of `PACKAGES`, and of Python; empty if they are unknown.
    prefix: of the environment with these packages. Jobs with conda have others.
    hashes: the file of the `FileHashCache` with the hashes of the code.
    """

    code: dict[str, dict[str, str]] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    prefix: str = sys.prefix
    hashes: str | None = None

    @classmethod
    def now(cls, code: Code, steps: Iterable[str]) -> "Installed":
        """The installed code and packages that decide about the results of these steps."""
        of_steps = {step: code.hashes(step) for step in {*steps}}
        cache = code.file_hashes.file
        hashes = str(cache.absolute()) if cache else None
        return cls(of_steps, _package_versions(), hashes=hashes)

    def fault(self, step: str) -> str:
        """A change of a step's code or of the packages since then, in words; empty without one."""
        known = self.code.get(step, {})
        cache = FileHashCache(Path(self.hashes) if self.hashes else None)
        now = Code(cache).hashes(step) if known else {}
        for file in sorted(known.keys() | now.keys()):
            if known.get(file) != now.get(file):
                return f"{file} was changed"
        if not self.packages or self.prefix != sys.prefix:
            return ""
        versions = _package_versions()
        for name in sorted(self.packages.keys() | versions.keys()):
            before, after = self.packages.get(name, "none"), versions.get(name, "none")
            if before != after:
                return f"the package {name} was changed ({before} to {after})"
        return ""


def installed_at_start() -> Installed:
    """The code and the packages that the plan states. Raises UserError."""
    with reading(plan_file()) as plan:
        return Installed(**plan["installed"])


def _package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
