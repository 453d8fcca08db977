"""Reads and writes files with a model's loss on held-out rows."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from workflow_scripts.artifacts.files import write_manifest, write_whole
from workflow_scripts.artifacts.manifest import Recipe
from workflow_scripts.checkpoints.strict_json import read_json
from workflow_scripts.common.errors import UserError

FORMAT = 2
KIND = "validation"


def write_loss(
    path: Path,
    description: dict,
    parameters: dict,
    inputs: Mapping[str, str | None],
    recipe: Recipe | None = None,
) -> None:
    """Write a file whole or not at all, and its manifest beside it.

    description: the loss, its model, and loss and tokens of each row. parameters, inputs, recipe:
    for the manifest.
    """
    content = {"format": FORMAT} | description
    write_whole(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
    write_manifest(path, KIND, parameters, inputs, recipe=recipe)


def read_losses(paths: Iterable[Path]) -> dict[Path, dict]:
    """The contents of such files. Raises UserError if a file holds no loss."""
    return {path: _read(path) for path in paths}


def _read(path: Path) -> dict:
    content = read_json(path)
    if content.get("format") != FORMAT or "loss" not in content or not content.get("rows"):
        raise UserError(
            f"{path} holds no validation loss (format {FORMAT}). Run step validation_loss again"
        )
    return content
