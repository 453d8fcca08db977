"""Finds out which merges are the best ones, and which scores may be too high."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from xft.reporting.runs import Result

CHOICES = ("validation", "benchmark")


def uncleaned(results: Iterable[Result]) -> dict[str, list[str]]:
    """The models whose rows were not cleaned of the problems of a data set, by data set."""
    models: dict[str, dict[str, None]] = {}
    for result in results:
        if result.row.uncleaned:
            models.setdefault(result.row.dataset, {})[result.subject.label] = None
    return {dataset: list(named) for dataset, named in models.items()}


def best_merges(
    chosen_by: str, results: Mapping[Result, dict], losses: Mapping[Path, Mapping]
) -> list[str]:
    """The best of the merges of each mixture that has several, in words.

    chosen_by: one of `CHOICES`. results: contents of the evaluations. losses: contents of the files
    of losses.
    """
    groups: dict[Path, list[Result]] = {}
    first = next(iter(results)).row.dataset
    for result in results:
        row = result.row
        if row.model.startswith("dense/") and row.dataset == first and row.diversity:
            groups.setdefault(row.diversity, []).append(result)
    lines = []
    for merges in groups.values():
        loss = {m: losses[m.row.validation_loss]["loss"] for m in merges if m.row.validation_loss}
        scores = {merge: results[merge]["pass@1"]["plus"] for merge in merges}
        if chosen_by == "validation":
            scores = {merge: -value for merge, value in loss.items()}
        if len(scores) == len(merges) > 1:
            best = max(scores, key=scores.get)
            words = f" (loss {loss[best]:.4f})" if best in loss else ""
            about = best.subject.variation(best.seed)
            name = f"{best.row.model} ({about})" if about else best.row.model
            lines.append(f"{name}{words}, of {len(merges)}")
    return lines
