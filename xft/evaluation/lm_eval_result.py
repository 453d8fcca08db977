"""Reads and writes the result of a model on tasks of lm_eval. Equal runs write equal bytes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from xft.artifacts.files import write_manifest, write_whole
from xft.artifacts.manifest import Recipe
from xft.checkpoints.reader import read_json
from xft.common.errors import UserError

KIND = "lm_eval"
FORMAT = 1


def build_result(measured: dict, model: dict, settings: dict, versions: dict) -> dict:
    """The content of the result file, from lm_eval's output without its times and paths."""
    return {
        "format": FORMAT,
        "kind": KIND,
        "model": model,
        "settings": settings,
        "versions": versions,
        "tasks": _tasks(measured),
    }


def _tasks(measured: dict) -> dict[str, dict]:
    """For each task and group: its version, examples in the prompt, examples, and metrics."""
    rows = measured["results"] | measured.get("groups", {})
    return {
        name: {
            "version": measured["versions"].get(name),
            "few_shot": measured["n-shot"].get(name),
            "examples": measured["n-samples"].get(name, {}).get("effective"),
            "metrics": _metrics(row),
        }
        for name, row in rows.items()
    }


def _metrics(row: dict) -> dict[str, dict]:
    """For each metric: value and standard error. lm_eval's keys are "metric,filter"."""
    found = {}
    for key, value in row.items():
        metric, comma, chosen = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            name = metric if chosen == "none" else f"{metric} ({chosen})"
            stderr = row.get(f"{metric}_stderr,{chosen}")
            found[name] = {"value": _number(value), "stderr": _number(stderr)}
    return found


def _number(value: object) -> float | None:
    """A finite number; None for any other value, such as "N/A"."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None


def write(
    path: Path, result: dict, task_hashes: Mapping[str, str], recipe: Recipe | None = None
) -> None:
    """Write a result, and its manifest beside it.

    task_hashes: SHA-256 of each task that is a file, by the file's name.
    """
    write_whole(path, json.dumps(result, indent=2, sort_keys=True) + "\n")
    inputs = {"model": result["model"]["id"]} | task_hashes
    write_manifest(path, KIND, result["settings"], inputs, recipe=recipe)


def read(path: Path) -> dict:
    """Read a result. Raises UserError if it is missing, broken, or not such a result."""
    result = read_json(path)
    if (result.get("kind"), result.get("format")) != (KIND, FORMAT):
        raise UserError(f"{path} is not a result of step lm_eval (format {FORMAT})")
    return result
