"""Reads and writes files with a model's loss on held-out rows."""

import json
from collections.abc import Mapping
from pathlib import Path

from workflow_scripts.artifacts.files import write_manifest, write_whole
from workflow_scripts.artifacts.manifest import Recipe
from workflow_scripts.checkpoints.strict_json import read_json
from workflow_scripts.common.errors import UserError

FORMAT = 1
KIND = "validation"


def write_loss(
    path: Path,
    description: dict,
    parameters: dict,
    inputs: Mapping[str, str | None],
    recipe: Recipe | None = None,
) -> None:
    """Write a file whole or not at all, and its manifest beside it.

    description: the loss, its model and its rows. parameters, inputs, recipe: for the manifest.
    """
    content = {"format": FORMAT} | description
    write_whole(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
    write_manifest(path, KIND, parameters, inputs, recipe=recipe)


def read_losses(paths: list[Path]) -> dict[str, float]:
    """The losses in files, by their model's folder. Raises UserError if a file holds no loss."""
    losses = {}
    for path in paths:
        content = read_json(path)
        if content.get("format") != FORMAT or "loss" not in content:
            raise UserError(f"{path} holds no validation loss (format {FORMAT})")
        losses[content["model"]["path"]] = content["loss"]
    return losses
