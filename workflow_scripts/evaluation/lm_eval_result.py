"""The result of a model on tasks of lm_eval: a JSON file of which equal runs write equal bytes."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from workflow_scripts.artifacts.files import write_manifest, write_whole
from workflow_scripts.artifacts.manifest import Recipe
from workflow_scripts.checkpoints.reader import read_json
from workflow_scripts.common.errors import UserError

KIND = "lm_eval"
FORMAT = 1


def build_result(measured: dict, model: dict, settings: dict, versions: dict) -> dict:
    """What the result file holds of what lm_eval measured, which says when and where as well."""
    return {
        "format": FORMAT,
        "kind": KIND,
        "model": model,
        "settings": settings,
        "versions": versions,
        "tasks": _tasks(measured),
    }


def _tasks(measured: dict) -> dict[str, dict]:
    """By task and group of tasks: version, examples in the prompt, examples, metrics."""
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
    """By metric: value and standard error. lm_eval's keys are metric,filter: acc_stderr,none."""
    found = {}
    for key, value in row.items():
        metric, comma, chosen = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            name = metric if chosen == "none" else f"{metric} ({chosen})"
            stderr = row.get(f"{metric}_stderr,{chosen}")
            found[name] = {"value": _number(value), "stderr": _number(stderr)}
    return found


def _number(value: object) -> float | None:
    """A finite number; None for what is none, as "N/A"."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None


def write(
    path: Path, result: dict, task_hashes: Mapping[str, str], recipe: Recipe | None = None
) -> None:
    """Write a result, and its manifest beside it. Equal runs write equal bytes.

    task_hashes: SHA-256 of each task that is a file, by the file's name.
    """
    write_whole(path, json.dumps(result, indent=2, sort_keys=True) + "\n")
    inputs = {"model": result["model"]["id"]} | task_hashes
    write_manifest(path, KIND, result["settings"], inputs, recipe=recipe)


def read(path: Path) -> dict:
    """Read a result. Raises UserError where it is missing, broken or something else."""
    result = read_json(path)
    if (result.get("kind"), result.get("format")) != (KIND, FORMAT):
        raise UserError(f"{path} is not a result of step lm_eval (format {FORMAT})")
    return result
