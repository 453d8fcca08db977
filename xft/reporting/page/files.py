"""Finds the files of a results folder, and what its artifacts are made from.

What leads elsewhere is not part of the folder.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from xft.artifacts.manifest import manifest_path, read_manifest
from xft.store.store import in_store


def is_own(folder: Path, file: Path) -> bool:
    """Whether a file lies in a results folder, or is a link from there into a store."""
    place = Path(os.path.realpath(file))
    return place.is_file() and (place.is_relative_to(os.path.realpath(folder)) or in_store(place))


def own_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a results folder that fit a pattern."""
    return [file for file in sorted(folder.glob(pattern)) if is_own(folder, file)]


def find_made(folder: Path, jobs: Iterable[dict]) -> dict[str, dict]:
    """The kind, inputs (ids) and parameters of each artifact in a results folder, with its job, by
    id.

    Raises UserError if a manifest is broken.
    """
    artifacts = {}
    for job in jobs:
        for name in (job["job"], f"{job['job']}.json"):
            file = manifest_path(folder / name)
            if is_own(folder, file):
                manifest = read_manifest(file)
                known = ("kind", "inputs", "parameters")
                artifacts[manifest.id] = job | {key: getattr(manifest, key) for key in known}
    return artifacts


def made_from(artifacts: Mapping[str, dict], artifact: str) -> list[dict]:
    """What `find_made` gives of an artifact, by its id, and of all that it depends on."""
    chain = [artifact]
    for key in chain:  # it grows
        inputs = artifacts[key]["inputs"].values()
        chain += [i for i in inputs if i in artifacts and i not in chain]
    return [artifacts[key] for key in chain]
