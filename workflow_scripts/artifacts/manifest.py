"""Manifests: what an artifact holds, from what it was made, and how.

The manifest of `results/moe/` is `results/moe.manifest.json`. It has no times in it: the same
inputs and parameters give the same bytes.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from workflow_scripts.checkpoints.header import hash_header
from workflow_scripts.checkpoints.strict_json import read_json
from workflow_scripts.common.errors import UserError
from workflow_scripts.common.progress import progress

FORMAT = 3
# Snakemake marks the folders that it made with a file of its own.
NOT_CONTENT = {".snakemake_timestamp"}
DIGEST = re.compile(r"[0-9a-f]{64}")
SAFETENSORS = ".safetensors"
SMALL_BYTES = 2**20  # files up to this size are hashed whenever an artifact is opened
BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Recipe:
    """What a step was asked for: all that decides about its artifact.

    options: values by their key in the configuration, such as "moe.num_experts". inputs: by name,
    the digest of the recipe of an artifact, or the hash of a file. code: the hash of each module.
    """

    step: str
    options: dict[str, object]
    inputs: dict[str, str]
    code: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 over the recipe, and so over those of all that the artifact is made from."""
        return _digest(asdict(self))


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest file.

    files: by path relative to the artifact, {"size": bytes, "sha256": hexadecimal digest}; of a
    safetensors file also "header_sha256", the digest of its length prefix and header.
    inputs: ids of the artifacts and SHA-256 of the files that this artifact was made from.
    recipe: what its step was asked for; None where no step says it.
    """

    kind: str
    files: dict[str, dict]
    parameters: dict = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    recipe: Recipe | None = None
    format: int = FORMAT

    @property
    def id(self) -> str:
        """SHA-256 over all but the recipe: equal ids mean equal artifacts.

        Another recipe, such as one with other code, may make the same artifact.
        """
        return _digest({name: value for name, value in asdict(self).items() if name != "recipe"})

    @property
    def origin(self) -> str:
        """What the recipes of its descendants call it: the digest of its recipe, else its id."""
        return self.recipe.digest if self.recipe else self.id

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"id": self.id}, indent=2, sort_keys=True) + "\n"


def _digest(value: dict) -> str:
    """SHA-256 of a JSON value."""
    content = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def manifest_path(artifact: Path) -> Path:
    """Where the manifest of an artifact stands: beside it."""
    named = artifact if artifact.name else artifact.absolute()
    return named.parent / f"{named.name}.manifest.json"


def short(digest: str) -> str:
    """The first digits of an id or a hash, enough to tell a few apart."""
    return digest[:8]


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest file. Raises UserError where it is missing, foreign or edited."""
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise UserError(
            f"{path}: format {content.get('format')!r:.40} is not {FORMAT}, the one that this "
            "version reads and writes. Make the artifact again"
        )
    if fault := _structure_fault(content):
        raise UserError(f"{path} is not a manifest: {fault}")
    stated_id = content.pop("id")
    recipe = content.pop("recipe")
    manifest = Manifest(**content, recipe=recipe and Recipe(**recipe))
    if manifest.id != stated_id:
        raise UserError(f"{path} was edited: its id does not fit its content")
    return manifest


def _structure_fault(content: dict) -> str | None:
    """What about a manifest's keys and types is wrong."""
    expected = {*Manifest.__dataclass_fields__, "id"}
    if content.keys() != expected:
        return f"it does not have the keys {', '.join(sorted(expected))} and no others"
    if not isinstance(content["kind"], str):
        return "its kind is not text"
    if not isinstance(content["parameters"], dict):
        return "its parameters are not an object"
    if not _is_digest(content["id"]):
        return "its id is not a SHA-256"
    if not _is_recipe(content["recipe"]):
        return "its recipe is not as it should be"
    inputs = content["inputs"]
    if not isinstance(inputs, dict) or not all(map(_is_digest, inputs.values())):
        return "its inputs are not names with a SHA-256 each"
    if not isinstance(content["files"], dict):
        return "its files are not an object"
    for name, entry in content["files"].items():
        if not _is_inside(name):
            return f"it names a file {name[:80]!r}, which is not inside the artifact"
        if not _is_file_entry(name, entry):
            return f"it does not state size and SHA-256 of {name[:80]!r} as it should"
    return None


def _is_recipe(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or value.keys() != set(Recipe.__dataclass_fields__):
        return False
    return isinstance(value["step"], str) and all(
        isinstance(value[name], dict) for name in ("options", "inputs", "code")
    )


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def _is_inside(name: str) -> bool:
    return "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def _is_file_entry(name: str, entry: object) -> bool:
    digests = {"sha256", "header_sha256"} if name.endswith(SAFETENSORS) else {"sha256"}
    return (
        isinstance(entry, dict)
        and entry.keys() == {"size", *digests}
        and type(entry["size"]) is int
        and entry["size"] >= 0
        and all(_is_digest(entry[key]) for key in digests)
    )


def describe_files(artifact: Path, known: dict[str, dict] | None = None) -> dict[str, dict]:
    """The entries of all files of an artifact, links followed.

    Sizes and hashes that are `known` are taken. Raises UserError where a safetensors file has no
    header.
    """
    files = {}
    for name, entry in (known or {}).items():
        complete = "header_sha256" in entry
        files[name] = entry if complete else entry | _header_entry(artifact / name)
    unknown = set(list_files(artifact)) - files.keys()
    files |= hash_files({name: artifact / name for name in unknown})
    return dict(sorted(files.items()))


def hash_files(paths: Mapping[str, Path]) -> dict[str, dict]:
    """The entries of files, by name: size, SHA-256, and the header's where there is one."""
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    with progress(desc="hash", total=sum(sizes.values()), unit="B", unit_scale=True) as bar:
        return {
            name: {"size": sizes[name], "sha256": hash_file(path, bar.update)} | _header_entry(path)
            for name, path in paths.items()
        }


def _header_entry(path: Path) -> dict:
    return {"header_sha256": hash_header(path)} if path.name.endswith(SAFETENSORS) else {}


def list_files(artifact: Path) -> list[str]:
    """Relative paths of all files in a folder, sorted."""
    return sorted(
        path.relative_to(artifact).as_posix()
        for path in artifact.rglob("*")
        if path.is_file() and path.name not in NOT_CONTENT
    )


def hash_file(path: Path, report: Callable[[int], object] = lambda count: None) -> str:
    """SHA-256 of a file, as hexadecimal digits. `report` is told how many bytes were read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            report(len(block))
    return digest.hexdigest()


def find_faults(artifact: Path, manifest: Manifest, full: bool = False) -> list[str]:
    """What about an artifact does not fit its manifest, a sentence for each fault.

    The artifact is a folder, or a file with others beside it. Compares names, sizes, the headers of
    safetensors files and the content of small files; with `full`, the content of all files. The
    content of a linked file that is newer than the manifest is compared in any case.
    """
    made = _time_of(manifest_path(artifact))
    if artifact.is_dir():
        present = set(list_files(artifact))
    else:
        artifact = artifact.parent
        present = {name for name in manifest.files if (artifact / name).is_file()}
    faults = [f"{artifact / name} is not in the manifest" for name in present - set(manifest.files)]
    sizes = {}
    for name, entry in manifest.files.items():
        path = artifact / name
        if name not in present:
            faults.append(f"{path} is missing")
        elif path.stat().st_size != entry["size"]:
            faults.append(f"{path} has {path.stat().st_size} bytes, not {entry['size']}")
        else:
            sizes[name] = entry["size"]
    with progress(desc="verify", total=sum(sizes.values()), unit="B", unit_scale=True) as bar:
        for name in sizes:
            path = artifact / name
            whole = full or (path.is_symlink() and path.stat().st_mtime > made)
            if fault := _content_fault(path, manifest.files[name], whole, bar.update):
                faults.append(f"{path} was altered: {fault}")
    return sorted(faults)


def _time_of(path: Path) -> float:
    """When a file was written; infinity where it is not there."""
    return path.stat().st_mtime if path.exists() else math.inf


def find_foreign(artifact: Path, manifest: Manifest) -> list[str]:
    """What would be lost with an artifact that its manifest does not know, a sentence each.

    These are other files, and files that were altered. What links point to stays.
    """
    if artifact.is_symlink() or not artifact.is_dir():
        return []
    names = [name for name in list_files(artifact) if not (artifact / name).is_symlink()]
    known = [name for name in names if name in manifest.files]
    faults = [f"{artifact / name} is not in it" for name in sorted(set(names) - set(known))]
    for name in known:
        path, entry = artifact / name, manifest.files[name]
        is_other_size = path.stat().st_size != entry["size"]
        if is_other_size or _content_fault(path, entry, False, lambda count: None):
            faults.append(f"{path} was altered")
    return faults


def _content_fault(path: Path, entry: dict, full: bool, report: Callable) -> str | None:
    """How a file's content differs from its entry; without `full`, as far as is quickly seen."""
    has_header = "header_sha256" in entry
    if full or (entry["size"] <= SMALL_BYTES and not has_header):
        if hash_file(path, report) != entry["sha256"]:
            return "its SHA-256 is not the manifest's"
    elif has_header and _hash_header_or_none(path) != entry["header_sha256"]:
        return "its header is not the manifest's"
    return None


def _hash_header_or_none(path: Path) -> str | None:
    try:
        return hash_header(path)
    except UserError:
        return None
