"""Reads and writes files with a model's loss on held-out rows."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from xft.artifacts.files import write_manifest, write_whole
from xft.artifacts.manifest import Recipe
from xft.checkpoints.strict_json import read_json
from xft.common.errors import UserError
from xft.reporting.subjects import Subject, subject

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


def loss_subject(file: Path, content: dict) -> Subject:
    """The subject of `[KEY~VALUE/...]validation/MODEL.json`, a file named after its model."""
    return subject(file.with_suffix("") / file.name, content["model"]["path"], KIND)


def losses_of(results: Mapping[Path, dict], contents: Mapping[Path, dict]) -> dict[Path, float]:
    """The loss of each evaluated model, by the evaluation's file.

    contents: of files of losses. A model that several variants share, such as base, has a loss on
    the held-out rows of each. The evaluation's is the one with the most of its changes and no
    others. Without one the model has no loss, unless it has only one.
    """
    found = {}
    for file, result in results.items():
        path = result["model"]["path"]
        losses = {
            f: content["loss"]
            for f, content in contents.items()
            if content["model"]["path"] == path
        }
        changes = _changes(subject(file, path))
        of_loss = {f: _changes(loss_subject(f, contents[f])) for f in losses}
        fitting = losses if len(losses) == 1 else [f for f in losses if of_loss[f] <= changes]
        if fitting:
            found[file] = losses[max(fitting, key=lambda f: len(of_loss[f]))]
    return found


def _changes(about: Subject) -> set:
    return {*about.changes, about.seed} - {None}


def _read(path: Path) -> dict:
    content = read_json(path)
    if content.get("format") != FORMAT or "loss" not in content or not content.get("rows"):
        raise UserError(
            f"{path} holds no validation loss (format {FORMAT}). Run step validation_loss again"
        )
    return content
