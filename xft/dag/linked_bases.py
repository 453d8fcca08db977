"""The links of an artifact `base` to the files of a model: which lead nowhere, and new ones."""

from collections.abc import Iterator
from pathlib import Path

from xft.artifacts.artifact import link_outside
from xft.artifacts.manifest import SMALL_BYTES, hash_file, manifest_path, read_manifest
from xft.common.errors import UserError
from xft.dag.nodes import Node


def check_links(base: Node) -> None:
    """Raise UserError if a link leads nowhere, and `mend_links` could not lay it again."""
    for file, source in _lost(base):
        if source is None:
            to = f", which leads to {file.readlink()}," if file.is_symlink() else ""
            raise UserError(
                f"{file}{to} is not there. Delete {base.entry}, so that it leads to "
                f"{base.name}.model = {_model(base)}"
            )


def mend_links(base: Node) -> None:
    """Lay the links again that lead nowhere since the store, or the model, was moved."""
    for file, source in _lost(base):
        if source is not None:
            file.unlink(missing_ok=True)
            link_outside(file, source, file.parent)


def _lost(base: Node) -> Iterator[tuple[Path, Path | None]]:
    """Each file of a base that is not there, and the model's file with its content, if any.

    Nothing is changed in the stores of others.
    """
    for name, stated in read_manifest(manifest_path(base.place)).files.items():
        file = base.place / name
        source = Path(_model(base), name)
        if not file.exists():
            is_known = not base.entry.is_symlink() and _has_content(source, stated)
            yield file, source if is_known else None


def _has_content(file: Path, stated: dict) -> bool:
    """Whether a file has the content that a manifest states.

    Of large files only the size is compared here. Who opens the artifact compares all of a file
    that was linked after the manifest was written.
    """
    if not file.is_file() or file.stat().st_size != stated["size"]:
        return False
    return stated["size"] > SMALL_BYTES or hash_file(file) == stated["sha256"]


def _model(base: Node) -> str:
    """The model that the configuration names."""
    return base.flags.get("model", base.run.config.base.model)
