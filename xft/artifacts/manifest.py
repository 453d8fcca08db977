"""Manifests: the files of an artifact, its inputs and its parameters.

The manifest of `results/moe/` is `results/moe.manifest.json`. It holds no times: the same inputs
and parameters give the same bytes.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from xft.checkpoints.model_files import hash_header
from xft.common.errors import UserError
from xft.common.file_access import write_whole
from xft.common.json_files import read_json
from xft.common.progress import progress
from xft.common.user_code import program_files

FORMAT = 4
MANIFEST_SUFFIX = ".manifest.json"
# Snakemake puts this file into each folder that it made.
NOT_CONTENT = {".snakemake_timestamp"}
TYPES = {"kind": str, "files": dict, "parameters": dict, "inputs": dict, "format": int}
SHA256 = re.compile("[0-9a-f]{64}")
SAFETENSORS = ".safetensors"
SMALL_BYTES = 2**26  # files up to this size are hashed whenever an artifact is opened
BLOCK_BYTES = 2**20
MAX_PARTS = 100  # of a path: each is a folder in another, which programs walk by recursion
MAX_SIZE = 2**63 - 1


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest file.

    kind: of the artifact.
    files: by path relative to the artifact, {"size": bytes, "sha256": hexadecimal digits}. A
    safetensors file also has "header_sha256", the digest of its length prefix and header.
    parameters: what the artifact depends on beside its inputs.
    inputs: ids of the artifacts and SHA-256 of the files that this artifact was made from.
    format: the version of this form.
    """

    kind: str
    files: dict[str, dict]
    parameters: dict = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def id(self) -> str:
        """SHA-256 over the manifest. Equal ids mean equal artifacts."""
        return json_sha256(asdict(self))

    def to_json(self) -> str:
        return as_json(asdict(self) | {"id": self.id})


def as_json(value: dict) -> str:
    """A JSON object with sorted keys and indentation: equal objects give equal texts."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def json_sha256(value: object) -> str:
    """The SHA-256 of a JSON value, as hexadecimal digits."""
    content = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def joint_sha256(hashes: list[str]) -> str:
    """The hash of several files by their own: that of a single file is the file's."""
    return hashes[0] if len(hashes) == 1 else json_sha256(hashes)


def manifest_path(artifact: Path) -> Path:
    """The path of an artifact's manifest, which is beside the artifact."""
    named = artifact if artifact.name else artifact.absolute()
    return named.parent / f"{named.name}{MANIFEST_SUFFIX}"


def short(digest: str) -> str:
    """The first digits of an id or a hash, enough to distinguish a few of them."""
    return digest[:8]


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest file.

    Raises UserError if it is missing, was edited, or is not a manifest of this version.
    """
    return as_manifest(read_json(path), path)


def as_manifest(content: dict, place: Path | str) -> Manifest:
    """The manifest that a place holds as JSON. Raises UserError as `read_manifest` does."""
    if content.get("format") != FORMAT:
        raise UserError(
            f"{place}: format {content.get('format')!r:.40} is not {FORMAT}, the one that this "
            "version reads and writes"
        )
    stated_id = content.pop("id", None)
    if fault := _fault_of_form(content):
        raise UserError(f"{place} is not a manifest: {fault}")
    manifest = Manifest(**content)
    if manifest.id != stated_id:
        raise UserError(f"{place} was edited: its id does not fit its content")
    return manifest


def _fault_of_form(content: dict) -> str | None:
    """The first fault of the content of a manifest file, without its id; None without a fault."""
    names = sorted(TYPES.keys() | content.keys())
    if wrong := [name for name in names if type(content.get(name)) is not TYPES.get(name)]:
        return f"{wrong[0]:.80}: it is unknown, missing or of another type"
    for name, entry in content["files"].items():
        if not _is_path(name):
            return f"files: {name!r:.80} is not the path of a file inside the artifact"
        if not _is_entry(entry):
            return f"files: {name!r:.80}: it has no size and SHA-256, or more"
    if wrong := [name for name, digest in content["inputs"].items() if not _is_sha256(digest)]:
        return f"inputs: {wrong[0]:.80}: it is no SHA-256"
    return None


def _is_path(name: str) -> bool:
    """Whether a name can be the path of a file inside an artifact."""
    parts = name.split("/")
    return "\0" not in name and not {"", ".", ".."} & set(parts) and len(parts) <= MAX_PARTS


def _is_entry(entry: object) -> bool:
    """Whether a value has the form of a file's entry, as in `Manifest.files`."""
    if not isinstance(entry, dict):
        return False
    size, hashes = entry.get("size"), {name: entry[name] for name in entry.keys() - {"size"}}
    is_known = {"sha256"} <= hashes.keys() <= {"sha256", "header_sha256"}
    return (
        is_known
        and type(size) is int
        and 0 <= size <= MAX_SIZE
        and all(map(_is_sha256, hashes.values()))
    )


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and SHA256.fullmatch(value) is not None


def describe_files(artifact: Path, known: dict[str, dict] | None = None) -> dict[str, dict]:
    """The manifest's entries for all files of an artifact. Links are followed.

    `known` entries are not computed again. Raises UserError if a safetensors file has no header.
    """
    files = {}
    for name, entry in (known or {}).items():
        complete = "header_sha256" in entry
        files[name] = entry if complete else entry | _header_entry(artifact / name)
    unknown = set(list_files(artifact)) - files.keys()
    files |= hash_files({name: artifact / name for name in unknown})
    return dict(sorted(files.items()))


def hash_files(paths: Mapping[str, Path]) -> dict[str, dict]:
    """The entries of files, by name: the size, the SHA-256, and the header's SHA-256 if any."""
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
    """SHA-256 of a file, as hexadecimal digits. `report` gets the size of each block read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            report(len(block))
    return digest.hexdigest()


def hash_program(file: Path) -> str:
    """The joint hash of a program of the user's, by those of its files. Raises UserError."""
    return json_sha256({name: hash_file(path) for name, path in program_files(file).items()})


def find_faults(artifact: Path, manifest: Manifest, full: bool = False) -> list[str]:
    """The differences between an artifact and its manifest, one sentence each.

    The artifact is a folder, or a file with others beside it. Names, sizes, the content of small
    files and the headers of larger safetensors are compared; with `full`, the content of all files.
    The content of a linked file is always compared if the file was changed or moved there after the
    manifest was written.
    """
    written = manifest_path(artifact).stat().st_mtime
    if artifact.is_dir():
        present = set(list_files(artifact))
    else:
        artifact = artifact.resolve().parent  # in a results folder it is a link with another name
        present = {name for name in manifest.files if (artifact / name).is_file()}
    faults = [f"{artifact / name} is not in the manifest" for name in present - set(manifest.files)]
    total = sum(entry["size"] for entry in manifest.files.values())
    with progress(desc="verify", total=total, unit="B", unit_scale=True) as bar:
        for name, entry in manifest.files.items():
            path = artifact / name
            if name not in present:
                faults.append(f"{_named(path)} is missing")
                continue
            state = path.stat()
            whole = full or (path.is_symlink() and state.st_ctime > written)
            if state.st_size != entry["size"]:
                faults.append(f"{_named(path)} has {state.st_size} bytes, not {entry['size']}")
            elif fault := _content_fault(path, entry, whole, bar.update):
                faults.append(f"{_named(path)} was altered: {fault}")
    return sorted(faults)


def _named(path: Path) -> str:
    """A file of an artifact as the subject of a fault, with the file to which it links."""
    return f"{path} links to {path.resolve()}, which" if path.is_symlink() else str(path)


def _content_fault(path: Path, entry: dict, full: bool, report: Callable) -> str | None:
    """How a file's content differs from its entry. Without `full`, only a quick check."""
    if full or entry["size"] <= SMALL_BYTES:
        is_same = hash_file(path, report) == entry["sha256"]
        return None if is_same else "its SHA-256 is not the manifest's"
    with suppress(UserError):  # the file holds no header any more
        if _header_entry(path).items() <= entry.items():
            return None
    return "its header is not the manifest's"


def write_manifest(
    path: Path,
    kind: str,
    parameters: dict | None = None,
    inputs: Mapping[str, str | None] | None = None,
    beside: Iterable[Path] = (),
) -> None:
    """Write the manifest of the file at `path` and of the files `beside` it.

    inputs: ids of artifacts and SHA-256 of files. An input without an id (None) is left out.
    """
    files = hash_files({file.name: file for file in (path, *beside)})
    known = {name: identity for name, identity in (inputs or {}).items() if identity}
    manifest = Manifest(kind, files, parameters or {}, known)
    write_whole(manifest_path(path), manifest.to_json())


@dataclass(frozen=True)
class ResultFormat:
    """A kind of such files.

    kind: its name in manifests.
    step: the one that writes them.
    number: of the format's version.
    key: the content of such a file has it, that of other kinds does not.
    """

    kind: str
    step: str
    number: int
    key: str

    def write(self, path: Path, content: dict, **more) -> None:
        """Write a file whole or not at all, and then its manifest.

        more: parameters, inputs and beside, for `write_manifest`.
        """
        write_whole(path, as_json({"format": self.number} | content))
        write_manifest(path, self.kind, **more)

    def read(self, path: Path) -> dict:
        """The content of a file. Raises UserError if it is missing, broken, or of another kind."""
        content = read_json(path)
        if content.get("format") != self.number or self.key not in content:
            raise UserError(
                f"{path} is no result of step {self.step} (format {self.number}). Run the step "
                "again"
            )
        return content


# The loss, its model, the loss and the number of tokens of each row, and `change_at_end` of the
# training that the model comes from.
LOSS_RESULT = ResultFormat("validation", "validation_loss", 2, "rows")
# How far the experts lie apart: spread, deviation, shift, layers, experts, ffn, base and routing.
DIVERSITY = ResultFormat("diversity", "diversity", 1, "spread")
# The numbers of a training's rows, all and contaminated ones, and the SHA-256 of the problems.
CONTAMINATION = ResultFormat("contamination", "contamination", 1, "contaminated")
# Why a training ended without a model: a loss or a gradient was not finite. What would be made of
# its model has the same.
DIVERGED = ResultFormat("diverged", "training", 1, "cause")
DIVERGED_FILE = "diverged.json"  # in an entry, in place of its artifact
# The settings of a method with their losses, and which is chosen: see `evaluation.choice`.
CHOICE = ResultFormat("choice", "choose", 1, "chosen")
