"""Opens artifacts only if they match their manifest, and writes them whole or not at all."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from xft.artifacts.claims import OWNER, holder, lock
from xft.artifacts.manifest import (
    Manifest,
    as_json,
    describe_files,
    find_faults,
    manifest_path,
    read_manifest,
)
from xft.checkpoints.model_files import INDEX_FILE, weight_files
from xft.checkpoints.reader import Checkpoint
from xft.checkpoints.writer import TensorSpec, link_checkpoint, write_checkpoint
from xft.common.errors import UserError
from xft.common.file_access import NO_ROOM, check_own, way_out, write_whole, writing

WORKSPACE_SUFFIX = ".tmp"
ENTRY_FILE = "entry.json"  # in an entry of the store: its recipe, size and hashes
NEW_MANIFEST = "manifest.json"  # in a workspace
TOKENIZER_PATTERNS = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("chat_template*", "additional_chat_templates/*.jinja"),
)
LICENCE_PATTERNS = ("LICENSE*", "NOTICE*", "COPYING*", "USE_POLICY*")
# Files that a model needs in addition to its weights and its config.
COMPANION_PATTERNS = (*TOKENIZER_PATTERNS, "generation_config.json", *LICENCE_PATTERNS)


@dataclass(frozen=True)
class OpenedArtifact:
    """A folder that was checked against its manifest when it was opened.

    path: of the folder.
    known_manifest: None if the folder has no manifest; `manifest` then hashes all files once.
    """

    path: Path
    known_manifest: Manifest | None

    @cached_property
    def manifest(self) -> Manifest:
        return self.known_manifest or Manifest("folder", describe_files(self.path))

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.path)


def open_artifact(path: Path, *kinds: str, full: bool = False) -> OpenedArtifact:
    """Open the artifact at `path`. It must be of one of `kinds`.

    A model folder without a manifest is accepted too, if its files are its own. Raises UserError if
    the folder is missing, is of another kind, or does not match its manifest. `find_faults`
    explains `full`.
    """
    path = Path(path)
    return OpenedArtifact(path, check_artifact(path, *kinds, full=full))


def check_artifact(path: Path, *kinds: str, full: bool = False) -> Manifest | None:
    """The manifest of the folder at `path`, after a check against it; None if it has none.

    Raises UserError as `open_artifact` does.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder")
    if not manifest_path(path).exists():
        check_own_files(path)
        return None
    entry = path.parent if (path.parent / ENTRY_FILE).is_file() else path
    try:
        manifest = read_manifest(manifest_path(path))
        faults = find_faults(path, manifest, full)
    except UserError as error:
        raise UserError(f"{error}. Delete {entry}, and make it again") from None
    if manifest.kind not in kinds:
        raise UserError(f"{path} is of kind {manifest.kind}, not {' or '.join(kinds)}")
    if faults:
        raise UserError(
            f"{path} does not fit its manifest: {'; '.join(faults)}. Delete {entry}, and make it "
            "again"
        )
    return manifest


class Draft:
    """An unfinished artifact.

    path: the temporary folder that holds it.
    out: where `create_artifact` moves it.
    known_files: sizes and hashes that are already known, by file name.
    """

    def __init__(self, path: Path, out: Path):
        self.path = path
        self.out = out
        self.known_files: dict[str, dict] = {}

    def write_tensors(self, specs: list[TensorSpec]) -> None:
        """Write a checkpoint of tensors. Raises UserError if there is no room."""
        try:
            self.known_files |= write_checkpoint(self.path, specs)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            shutil.rmtree(self.path)  # or the parts that were written would count as taken
            megabytes = sum(spec.nbytes for spec in specs) / 1e6
            raise UserError(
                f"{error.strerror}: {self.out} needs {megabytes:,.1f} MB."
                f"{way_out(error.errno, self.out)} Nothing was changed."
            ) from None

    def link_tensors(self, source: OpenedArtifact, names: list[str]) -> None:
        """Make a checkpoint of some tensors of another artifact, as `link_checkpoint` does."""
        known = source.manifest.files
        linked = link_checkpoint(self.path, source.checkpoint, names)
        self.known_files |= {file: known[file] for file in linked}

    def write_model(self, specs: list[TensorSpec], config: dict, like: Path, card: str) -> None:
        """Write a model: tensors, config, and the companion files of the model at `like`.

        card: the text of its README.md.
        """
        travelling = companions(like)  # listed first: `like` may vanish during the writing
        self.write_tensors(specs)
        write_json(self.path / "config.json", config)
        for path in travelling:
            target = self.path / path.relative_to(like)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
        (self.path / "README.md").write_text(card, encoding="utf-8")


@contextmanager
def create_artifact(
    out: Path, kind: str, parameters: dict | None = None, inputs: dict[str, str] | None = None
) -> Iterator[Draft]:
    """Yield a draft to fill. Then move it to `out` and write its manifest last, beside it.

    The files become read-only. An exception leaves nothing behind. Raises UserError if `out`
    exists: an artifact is never overwritten.
    """
    out = Path(out)
    remove_abandoned(out)
    check_no_artifact(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # A hidden folder beside `out`, with a file that is locked while this process lives.
    place = {"prefix": f".{out.name}.", "suffix": WORKSPACE_SUFFIX, "dir": out.parent}
    workspace = TemporaryDirectory(**place, ignore_cleanup_errors=True)
    with writing(out), workspace as name, lock(Path(name, f".{OWNER}")):
        folder = Path(name)
        draft = Draft(folder / out.name, out)
        draft.path.mkdir()
        yield draft
        files = describe_files(draft.path, draft.known_files)
        _make_files_read_only(draft.path)
        sync(draft.path)
        manifest = Manifest(kind, files, parameters or {}, inputs or {})
        write_whole(folder / NEW_MANIFEST, manifest.to_json())
        check_no_artifact(out)
        draft.path.rename(out)
        (folder / NEW_MANIFEST).rename(manifest_path(out))
        _sync_path(out.parent)


def check_no_artifact(out: Path) -> None:
    """Raise UserError if something is at the place of an artifact. An empty folder may be."""
    is_empty = out.is_dir() and not any(out.iterdir())
    if os.path.lexists(out) and not is_empty:
        raise UserError(
            f"{out} exists, and an artifact is never overwritten. Delete it and "
            f"{manifest_path(out).name}, or choose another path"
        )


def seal(folder: Path, kind: str) -> None:
    """Sync a folder that other code wrote to the disk, and write a manifest beside it."""
    manifest = Manifest(kind, describe_files(folder))
    sync(folder)
    write_whole(manifest_path(folder), manifest.to_json())
    _sync_path(folder.parent)


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object as `as_json` gives it."""
    path.write_text(as_json(value), encoding="utf-8")


def companions(source: Path) -> list[Path]:
    """The files that go unchanged from model to model: the tokenizer, the generation config, chat
    templates and the licence.
    """
    return [path for path in _companion_places(source) if path.is_file()]


def link_outside(link: Path, file: Path, place: Path) -> None:
    """Make a link to a file of a model. place: the folder that will hold the link.

    It is relative if both places are in the working directory, else absolute: relative links
    still work if the project moves with its model, absolute ones if it moves alone.
    """
    here, target, place = Path.cwd(), file.resolve(), place.resolve()
    is_within = target.is_relative_to(here) and place.is_relative_to(here)
    link.symlink_to(os.path.relpath(target, place) if is_within else target)


def check_own_files(model: Path) -> None:
    """Raise UserError unless all files of a model are its folder's own, as `check_own` says."""
    for name in ("config.json", INDEX_FILE):
        if os.path.lexists(model / name):
            check_own(model / name, model)
    weights = [model / name for name in weight_files(model)]
    for path in [*filter(os.path.lexists, weights), *_companion_places(model)]:
        check_own(path, model)


def _companion_places(model: Path) -> list[Path]:
    places = {path for pattern in COMPANION_PATTERNS for path in model.glob(pattern)}
    return sorted(path for path in places if not path.is_dir())


def _make_files_read_only(folder: Path) -> None:
    """Protect an artifact's own files from accidents. Linked files belong to the user.

    Folders and the manifest stay writable: Snakemake does not replace read-only outputs.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o444)


def remove_abandoned(out: Path) -> None:
    """Remove the unlocked workspaces that killed processes left beside `out`."""
    for abandoned in out.parent.glob(f".{glob.escape(out.name)}.*{WORKSPACE_SUFFIX}"):
        with suppress(OSError):
            if not holder(abandoned / f".{OWNER}"):
                shutil.rmtree(abandoned)


def sync(folder: Path) -> None:
    """Bring a folder and all that it holds to the disk."""
    for path in [*folder.rglob("*"), folder]:
        if not path.is_symlink():
            _sync_path(path)


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def overlap(written: Path, read: Path) -> bool:
    """Whether the path `written` equals the path `read`, contains it or lies in it."""
    links = filter(Path.is_symlink, read.iterdir() if read.is_dir() else ())
    targets = [Path(os.path.realpath(link)) for link in links]  # resolve may raise at a loop
    return any(
        out.is_relative_to(source) or source.is_relative_to(out)
        for out in _places(written)
        for source in (*_places(read), *targets)
    )


def _places(path: Path) -> list[Path]:
    """A path with its parent's links resolved, and the path with all links resolved."""
    absolute = path.absolute()
    return [absolute.parent.resolve() / absolute.name, absolute.resolve()]
