"""Finds what the artifacts of a results folder are made from, and how long that took."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from xft.artifacts.manifest import manifest_path, read_manifest
from xft.reporting.page.files import is_own


def find_made(folder: Path, jobs: Iterable[dict]) -> dict[str, dict]:
    """The kind and the inputs (ids) of each artifact in a results folder, with its job, by id.

    Raises UserError if a manifest is broken.
    """
    found = {}
    for job in jobs:
        for name in (job["job"], f"{job['job']}.json"):
            file = manifest_path(folder / name)
            if is_own(folder, file):
                manifest = read_manifest(file)
                found[manifest.id] = job | {"kind": manifest.kind, "inputs": manifest.inputs}
    return found


def seconds_to_make(made: Mapping[str, dict], artifact: str) -> float:
    """Those of an artifact's job and of all jobs that it depends on. artifact: its id."""
    chain = [artifact]
    for one in chain:  # it grows
        chain += [i for i in made[one]["inputs"].values() if i in made and i not in chain]
    return sum(made[one]["seconds"] for one in chain)
