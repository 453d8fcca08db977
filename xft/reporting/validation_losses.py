"""Reads and writes files with a model's loss on held-out rows."""

import json
from collections.abc import Mapping
from pathlib import Path

from xft.artifacts.files import write_manifest, write_whole
from xft.artifacts.manifest import Recipe
from xft.checkpoints.strict_json import read_json
from xft.common.errors import UserError

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


def read_loss(path: Path) -> dict:
    """The content of such a file. Raises UserError if the file holds no loss."""
    content = read_json(path)
    if content.get("format") != FORMAT or "loss" not in content or not content.get("rows"):
        raise UserError(
            f"{path} holds no validation loss (format {FORMAT}). Run step validation_loss again"
        )
    return content
