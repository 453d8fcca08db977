"""Manifests: what an artifact holds, from what it was made, and how.

The manifest of `results/moe/` is `results/moe.manifest.json`. It has no times in it: the same
inputs and parameters give the same bytes.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from workflow_scripts.checkpoints.reader import read_json
from workflow_scripts.errors import UserError

FORMAT = 1
# Snakemake marks the folders that it made with a file of its own.
NOT_CONTENT = {".snakemake_timestamp"}


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest file.

    files: by path relative to the artifact, {"size": bytes, "sha256": hexadecimal digest}.
    inputs: ids of the artifacts and SHA-256 of the files that this artifact was made from.
    """

    kind: str
    files: dict[str, dict]
    parameters: dict = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def id(self) -> str:
        """SHA-256 over everything else in the manifest: equal ids mean equal artifacts."""
        content = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"id": self.id}, indent=2, sort_keys=True) + "\n"


def manifest_path(artifact: Path) -> Path:
    """Where the manifest of an artifact stands: beside it."""
    named = artifact if artifact.name else artifact.absolute()
    return named.parent / f"{named.name}.manifest.json"


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest file. Raises UserError where it is missing, foreign or edited."""
    content = read_json(path)
    stated_id = content.pop("id", None)
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: format {content.get('format')} is not {FORMAT}, the known one")
    try:
        manifest = Manifest(**content)
    except TypeError as error:
        raise UserError(f"{path} is not a manifest: {error}") from None
    if manifest.id != stated_id:
        raise UserError(f"{path} was edited: its id does not fit its content")
    return manifest


def describe_files(artifact: Path, known: dict[str, dict] | None = None) -> dict[str, dict]:
    """Size and SHA-256 of each file of an artifact, links followed. `known` entries are kept."""
    files = dict(known or {})
    for name in list_files(artifact):
        if name not in files:
            files[name] = describe_file(artifact / name)
    return dict(sorted(files.items()))


def describe_file(path: Path) -> dict:
    """Size and SHA-256 of a file."""
    return {"size": path.stat().st_size, "sha256": hash_file(path)}


def list_files(artifact: Path) -> list[str]:
    """Relative paths of all files in a folder, sorted."""
    return sorted(
        path.relative_to(artifact).as_posix()
        for path in artifact.rglob("*")
        if path.is_file() and path.name not in NOT_CONTENT
    )


def hash_file(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_faults(artifact: Path, manifest: Manifest, full: bool = False) -> list[str]:
    """What about an artifact does not fit its manifest, a sentence for each fault.

    The artifact is a folder, or a file with others beside it. Compares names and sizes; with
    `full`, the hashes too.
    """
    if artifact.is_dir():
        present = set(list_files(artifact))
    else:
        artifact = artifact.parent
        present = {name for name in manifest.files if (artifact / name).is_file()}
    faults = [f"{artifact / name} is not in the manifest" for name in present - set(manifest.files)]
    for name, entry in manifest.files.items():
        path = artifact / name
        if name not in present:
            faults.append(f"{path} is missing")
        elif path.stat().st_size != entry["size"]:
            faults.append(f"{path} has {path.stat().st_size} bytes, not {entry['size']}")
        elif full and hash_file(path) != entry["sha256"]:
            faults.append(f"{path} was altered: its SHA-256 is not the manifest's")
    return sorted(faults)
