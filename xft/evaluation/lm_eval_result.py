"""Reads and writes the result of a model on tasks of lm_eval. Equal runs write equal bytes."""

from collections.abc import Mapping
from pathlib import Path

from xft.artifacts.results import ResultFormat
from xft.common.numbers import finite

KIND = "lm_eval"
RESULT = ResultFormat(KIND, "lm_eval", 1, "tasks")


def build_result(measured: dict, model: dict, settings: dict, versions: dict) -> dict:
    """The content of the result file, from lm_eval's output without its times and paths.

    For each task and group: its version, examples in the prompt, examples, and metrics.
    """
    tasks = {
        name: {
            "version": measured["versions"].get(name),
            "few_shot": measured["n-shot"].get(name),
            "examples": measured["n-samples"].get(name, {}).get("effective"),
            "metrics": _metrics(row),
        }
        for name, row in (measured["results"] | measured.get("groups", {})).items()
    }
    about = {"kind": KIND, "model": model, "settings": settings, "versions": versions}
    return about | {"tasks": tasks}


def _metrics(row: dict) -> dict[str, dict]:
    """For each metric: value and standard error. lm_eval's keys are "metric,filter"."""
    found = {}
    for key, value in row.items():
        metric, comma, chosen = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            name = metric if chosen == "none" else f"{metric} ({chosen})"
            stderr = row.get(f"{metric}_stderr,{chosen}")
            found[name] = {"value": finite(value), "stderr": finite(stderr)}
    return found


def write(path: Path, result: dict, task_hashes: Mapping[str, str]) -> None:
    """Write a result, and its manifest beside it.

    task_hashes: SHA-256 of each file of the tasks, by name.
    """
    inputs = {"model": result["model"]["id"]} | task_hashes
    RESULT.write(path, result, parameters=result["settings"], inputs=inputs)


read = RESULT.read
