"""Reads and writes files that say how far the experts of a mixture have moved apart."""

import json
from collections.abc import Mapping
from pathlib import Path

from xft.artifacts.files import write_manifest, write_whole
from xft.artifacts.manifest import Recipe
from xft.checkpoints.strict_json import read_json
from xft.common.errors import UserError
from xft.common.json_lines import read_json_objects

FORMAT = 1
KIND = "diversity"
LAST_STEPS = 10  # of the tuning: one step's statistics are those of one small batch


def write_diversity(
    path: Path, description: dict, inputs: Mapping[str, str], recipe: Recipe | None = None
) -> None:
    """Write a file whole or not at all, and its manifest beside it.

    description: the values, the FFN artifact and the base. inputs, recipe: for the manifest.
    """
    content = {"format": FORMAT, "kind": KIND} | description
    write_whole(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
    write_manifest(path, KIND, inputs=inputs, recipe=recipe)


def read_diversity(path: Path) -> dict:
    """The content of a file: spread, deviation, shift, layers, experts, ffn, base and routing.

    Raises UserError if the file is another one.
    """
    content = read_json(path)
    if content.get("format") != FORMAT or content.get("kind") != KIND:
        raise UserError(f"{path} is no result of step diversity (format {FORMAT})")
    return content


def routing_at_end(metrics: Path) -> dict[str, float] | None:
    """The routers at the end of a tuning; None if its metrics say nothing of them.

    entropy: of the routers' probabilities, in nats. imbalance: the largest load of a routed expert
    above the mean load, relative to that (MaxVio of arXiv 2408.15664); 0 if all are equal. Both are
    means over the layers and over the last steps, at most ten. Raises UserError if a line is no
    JSON object.
    """
    lines = read_json_objects(metrics, "metrics")
    lines = [line for line in lines if "entropy" in line and "load" in line]
    last = lines[-LAST_STEPS:]
    if not last:
        return None
    entropies = [value for line in last for value in line["entropy"]]
    excesses = [len(load) * max(load) - 1 for line in last for load in line["load"]]
    return {"entropy": _mean(entropies), "imbalance": _mean(excesses), "steps": len(last)}


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)
