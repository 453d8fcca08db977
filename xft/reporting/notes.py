"""Finds out which merges are the best ones, and which scores may be too high."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xft.reporting.choice import best_merge
from xft.reporting.runs import Result

# What a merge is chosen by, and the step whose result says it.
CHOICES = {"validation": "validation_loss", "benchmark": "eval"}


def uncleaned(results: Iterable[Result]) -> dict[str, list[str]]:
    """The models whose rows were not cleaned of the problems of a data set, by data set."""
    models: dict[str, dict[str, None]] = {}
    for result in results:
        if result.row.uncleaned:
            models.setdefault(result.row.dataset, {})[result.subject.label] = None
    return {dataset: list(named) for dataset, named in models.items()}


def best_merges(
    chosen_by: str, results: Sequence[Result], losses: Mapping[Path, Mapping]
) -> list[str]:
    """The best of the merges of each mixture that has several, in words.

    chosen_by: one of `CHOICES`. losses: contents of the files of losses.
    """
    groups: dict[Path, list[Result]] = {}
    first = results[0].row.dataset
    for result in results:
        row = result.row
        if row.model.startswith("dense/") and row.dataset == first and row.diversity:
            groups.setdefault(row.diversity, []).append(result)
    lines = []
    for merges in groups.values():
        files = [merge.row.files.get(CHOICES[chosen_by]) for merge in merges]
        if len(merges) > 1 and all(files):
            best = merges[best_merge(files, chosen_by)]
            loss = losses.get(best.row.validation_loss)
            words = f" (loss {loss['loss']:.4f})" if loss else ""
            about = best.subject.variation(best.seed)
            name = f"{best.row.model} ({about})" if about else best.row.model
            lines.append(f"{name}{words}, of {len(merges)}")
    return lines
