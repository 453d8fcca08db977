"""Finds the artifacts in a folder, and the artifacts that each of them was made from."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path

from xft.artifacts.manifest import Manifest, manifest_path, read_manifest
from xft.common.errors import UserError

MANIFEST_SUFFIX = ".manifest.json"
GENERATIONS_SUFFIX = ".generations.jsonl"
# For kinds with a folder of their own in the results folder: how many levels below it they are at
# most, as those of experts_only/expert~1/lam~0.75.
DEPTHS = {"data": 2, "problems": 1, "eval": 4, "lm_eval": 4}
DEPTHS |= {"validation": 3, "ground_truth": 1}
DEPTHS |= {"weighted_init": 1, "weighted_trained": 1, "dense": 2, "heal": 1}
# The name of the best merge, from which nothing is made.
BEST = "best"
# Other folders of artifacts of a kind.
FOLDERS = {"weighted_init": ("uniform_init",), "dense": ("uniform", "experts_only")}
# The possible kinds of each input by its name, except the artifact's own kind. An evaluated model
# may be of any kind. Inputs with other names are files, not artifacts.
INPUT_KINDS = {
    "base": ("base",),
    "moe": ("moe_sft", "moe"),
    "ffn": ("ffn",),
    "weighted": ("weighted_trained", "weighted_init"),
    "dense": ("dense",),
    "tokens": ("tokens",),
    "flops_of": ("moe",),
    "ground_truth": ("ground_truth",),
    "model": (),
}


def find_artifacts(path: Path) -> list[Path]:
    """The artifact at `path`, or all artifacts below it. Raises UserError if there is none."""
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


@dataclass(frozen=True)
class Origin:
    """An input of an artifact, by name and id.

    place: the artifact with this id, if it is here. successor: otherwise the artifact with
    another id at the same path, if there is one.
    """

    name: str
    id: str
    place: Path | None = None
    successor: Path | None = None

    @property
    def is_artifact(self) -> bool:
        return _unnumbered(self.name) in INPUT_KINDS


class Catalogue:
    """The manifests of some artifacts and of those in the same results folders.

    errors: why a manifest could not be read, by its artifact's absolute path.
    """

    def __init__(self, artifacts: Iterable[Path]):
        self.errors: dict[Path, str] = {}
        self._manifests: dict[Path, Manifest] = {}
        for artifact in artifacts:
            self._read(artifact)
        for results in {self._results_folder(place) for place in self._manifests}:
            for folder in _variations(results):
                for pattern in (f"*{MANIFEST_SUFFIX}", f"*/*{MANIFEST_SUFFIX}"):
                    for artifact in _with_manifests(folder.glob(pattern)):
                        self._read(artifact)

    def manifest(self, artifact: Path) -> Manifest:
        """The manifest of an artifact. Raises UserError if it cannot be read."""
        place = absolute(artifact)
        if place in self.errors:
            raise UserError(self.errors[place])
        return self._manifests[place]

    def origins(self, artifact: Path) -> list[Origin]:
        """What an artifact was made from."""
        inputs = self.manifest(artifact).inputs
        return [self._origin(absolute(artifact), *item) for item in sorted(inputs.items())]

    def _read(self, artifact: Path) -> None:
        place = absolute(artifact)
        if place in self._manifests or place in self.errors:
            return
        try:
            self._manifests[place] = read_manifest(manifest_path(artifact))
        except UserError as error:
            self.errors[place] = str(error)
        except OSError as error:
            self.errors[place] = f"{manifest_path(artifact)}: {error.strerror}"

    def _origin(self, place: Path, name: str, stated_id: str) -> Origin:
        if _unnumbered(name) not in INPUT_KINDS:
            return Origin(name, stated_id)
        folder = self._results_folder(place)
        found = [other for other, m in self._manifests.items() if m.id == stated_id]
        present = [other for other in found if other.exists()]
        if present:
            beside = [other for other in present if self._results_folder(other) == folder]
            return Origin(name, stated_id, place=(beside or present)[0])
        return Origin(name, stated_id, successor=self._successor(place, name))

    def _successor(self, place: Path, name: str) -> Path | None:
        """The artifact that is now at the usual path of an input. Its id does not matter.

        It lies in as many of the folders of the artifact's variation as there are. If there are
        several, it is the one with the same name as `place`: `dense/lam~0.75` was made from
        `weighted_trained/lam~0.75`.
        """
        for beside in self._beside(place):
            if found := self._named(beside, place, name):
                return found
        return None

    def _beside(self, place: Path) -> Iterator[list[Path]]:
        """The artifacts of the same results that may be inputs, those most like `place` first."""
        results, own = self._results_folder(place), self._variation(place)
        groups: dict[frozenset, list[Path]] = {}
        for other in self._manifests:
            variation = self._variation(other)
            if self._results_folder(other) == results and variation <= own and other.exists():
                groups.setdefault(variation, []).append(other)
        for variation in sorted(groups, key=len, reverse=True):
            yield groups[variation]

    def _variation(self, place: Path) -> frozenset[str]:
        """The folders between the results folder and the artifact's kind, such as seed~7."""
        parts = place.relative_to(self._results_folder(place)).parts
        return frozenset(takewhile(lambda part: "~" in part, parts))

    def _named(self, beside: list[Path], place: Path, name: str) -> Path | None:
        own_kind = self._manifests[place].kind
        if name == "model":
            described = place.with_suffix("") if own_kind == "validation" else place.parent
            model = self._name(described, place).removeprefix(f"{own_kind}/")
            return next((other for other in beside if self._name(other, other) == model), None)
        kinds = INPUT_KINDS[_unnumbered(name)][
            :: -1 if {*FOLDERS["dense"]} & {*place.parts[-3:]} else 1
        ]
        kind = next((kind for kind in kinds if kind != own_kind), None)
        usual = (other for other in beside if other.name != BEST)
        of_kind = [other for other in usual if self._manifests[other].kind == kind]
        candidates = [other for other in of_kind if other.name == place.name] or of_kind
        return candidates[0] if len(candidates) == 1 else None

    def _name(self, path: Path, place: Path) -> str:
        """The path of, or above, an artifact, without results folder and variation."""
        parts = path.relative_to(self._results_folder(place)).parts
        return "/".join(dropwhile(lambda part: "~" in part, parts))

    def _results_folder(self, place: Path) -> Path:
        """The results folder: the parent of the kind's folder, or else the artifact's parent.

        Folders of a variation, such as seed~7, lie in the results folder.
        """
        kind = self._manifests[place].kind
        names = (kind, *FOLDERS.get(kind, ()))
        near = list(place.parents)[: DEPTHS.get(kind, 0)]
        folder = next((above.parent for above in near if above.name in names), place.parent)
        return next(above for above in (folder, *folder.parents) if "~" not in above.name)


def _variations(folder: Path) -> Iterator[Path]:
    """A results folder and the folders of variations in it."""
    yield folder
    for path in folder.glob("*~*"):
        if path.is_dir() and not manifest_path(path).exists():
            yield from _variations(path)


def absolute(path: Path) -> Path:
    """The path from the root, without `.` and `..`. Links are not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow links)


def _unnumbered(name: str) -> str:
    """The name of an input without its number: `model` for `model 2`."""
    return name.rstrip("0123456789 ")


def _with_manifests(manifests: Iterable[Path]) -> list[Path]:
    """The artifacts that belong to manifest files, sorted."""
    return [m.with_name(m.name.removesuffix(MANIFEST_SUFFIX)) for m in sorted(manifests)]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
