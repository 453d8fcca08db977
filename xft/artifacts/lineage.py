"""Finds the artifacts in a folder, and by their ids those that an artifact was made from."""

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.errors import UserError

MANIFEST_SUFFIX = ".manifest.json"
GENERATIONS_SUFFIX = ".generations.jsonl"


def find_artifacts(path: Path) -> list[Path]:
    """The artifact at `path`, or all artifacts below it. Raises UserError if there are none."""
    if manifest_path(path).exists():
        return [path]
    found = _with_manifests(path.rglob(f"*{MANIFEST_SUFFIX}"))
    if not found:
        raise UserError(f"{path}: no manifest beside it and none below it")
    return found


def find_orphans(path: Path, artifacts: Iterable[Path]) -> list[Path]:
    """Folders of weights and results of evaluations below `path` that are not in `artifacts`."""
    weights = {file.parent for file in path.rglob("*.safetensors")}
    results = {
        file.with_name(file.name.removesuffix(GENERATIONS_SUFFIX) + ".json")
        for file in path.rglob(f"*{GENERATIONS_SUFFIX}")
    }
    known = set(artifacts)
    return sorted(
        place
        for place in weights | {file for file in results if file.exists()}
        if not known & {place, *place.parents} and not _is_hidden(place.relative_to(path))
    )


class Catalogue:
    """Some artifacts, those beside them, and those in folders above up to the working directory.

    Artifacts that are missing or whose manifest cannot be read are left out.
    """

    def __init__(self, artifacts: Iterable[Path]):
        given, here = [*map(absolute, artifacts)], Path.cwd()
        above = (folder for place in given for folder in place.parents)
        folders = {place.parent for place in given}
        folders |= {folder for folder in above if folder.is_relative_to(here)}
        near = (
            place
            for folder in sorted(folders)
            for pattern in (f"*{MANIFEST_SUFFIX}", f"*/*{MANIFEST_SUFFIX}")
            for place in _with_manifests(folder.glob(pattern))
        )
        self._places: dict[str, list[Path]] = defaultdict(list)
        for place in dict.fromkeys([*given, *near]):
            with suppress(UserError, OSError):
                if place.exists():
                    self._places[read_manifest(manifest_path(place)).id].append(place)

    def find(self, identity: str, near: Path) -> Path | None:
        """The artifact with this id, the nearest one to a path if several have it."""
        return max(
            self._places.get(identity, ()),
            key=lambda place: len(os.path.commonpath([place, absolute(near)])),
            default=None,
        )


def absolute(path: Path) -> Path:
    """The path from the root, without `.` and `..`. Links are not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow links)


def _with_manifests(manifests: Iterable[Path]) -> list[Path]:
    """The artifacts that belong to manifest files, sorted."""
    return [m.with_name(m.name.removesuffix(MANIFEST_SUFFIX)) for m in sorted(manifests)]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
