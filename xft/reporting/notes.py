"""Finds out which merges are the best ones, and which scores may be too high."""

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from pathlib import Path

from xft.reporting.runs import Result, Row

# What a merge is chosen by, and the step whose result says it.
CHOICES = {"validation": "validation_loss", "benchmark": "eval"}


def learned_from(results: Iterable[Result]) -> dict[tuple[str, Path], dict[str, None]]:
    """The models that learned from rows which may contain a problem, by data set and count file."""
    learned: dict[tuple[str, Path], dict[str, None]] = {}
    for result in results:
        if file := result.row.contamination:
            learned.setdefault((result.row.dataset, file), {})[result.subject.label] = None
    return learned


def best_merges(
    chosen_by: str, rows: Iterable[Row], measured: Mapping[Result, dict], losses: Mapping
) -> Iterator[str]:
    """The best of the merges of each mixture that has several, in words.

    A merge counts once, by its first result; on a benchmark, by that on the first data set. Of
    merges that solve as many problems, the one with the lowest loss is the best.

    chosen_by: one of `CHOICES`.
    measured: contents of the results of its step.
    losses: contents of the files of losses, by path.
    """
    step, results = CHOICES[chosen_by], {result.file: result for result in measured}
    groups: dict[Path, dict[str, Row]] = {}
    for row in rows:
        if step in row.files and row.diversity and row.model.startswith("dense/"):
            merges = groups.setdefault(row.diversity, {})
            first = next(iter(merges.values()), row)
            if chosen_by == "validation" or row.dataset == first.dataset:
                model = measured[results[row.files[step]]]["model"]
                merges.setdefault(model["id"] or model["path"], row)
    for merges in (list(group.values()) for group in groups.values() if len(group) > 1):
        best = min(merges, key=lambda row: _rank(measured[results[row.files[step]]], row, losses))
        loss = losses.get(best.validation_loss)
        words = f" (loss {loss['loss']:.4f})" if loss else ""
        result = results[best.files[step]]
        variation = result.subject.variation(result.seed)
        name = f"{best.model} ({variation})" if variation else best.model
        yield f"{name}{words}, of {len(merges)}"


def _rank(result: Mapping, row: Row, losses: Mapping[Path, Mapping]) -> tuple[float, float]:
    """By what the best merge comes first: solved problems if they were measured, then the loss."""
    score = result["pass@1"]["plus"] if "pass@1" in result else 0.0
    return -score, losses.get(row.validation_loss, {}).get("loss", inf)
