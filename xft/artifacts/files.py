"""Writes files whole or not at all, and their manifests."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from xft.artifacts.manifest import Manifest, hash_files, manifest_path
from xft.common.refusals import writing


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to a temporary file beside `path`, and rename it to `path`.

    Missing parent folders are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path), draft.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


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
