"""Sentences about results: which merge was chosen, and which scores may be too high."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from xft.reporting.runs import Result

CHOICES = ("validation", "benchmark")
CHOSEN_BY = {
    "validation": "The best merge of each mixture, chosen by the lowest loss on the held-out rows:",
    "benchmark": "The best merge of each mixture, chosen by the benchmark itself. Its score is "
    "higher than on new problems, the more so the more merges there were:",
}


def uncleaned_text(results: Sequence[Result]) -> str:
    """A sentence for each data set of whose problems the rows of some models were not cleaned."""
    models: dict[str, dict[str, None]] = {}
    for result in results:
        if result.row.uncleaned:
            models.setdefault(result.row.dataset, {})[result.subject.label] = None
    return "".join(
        f"The rows that {', '.join(named)} learned from were not cleaned of the problems of "
        f"{dataset}. These scores on {dataset} may be too high.\n"
        for dataset, named in models.items()
    )


def chosen_text(
    chosen_by: str, results: Mapping[Result, dict], losses: Mapping[Path, Mapping]
) -> str:
    """A line for the best of the merges of each mixture that has several.

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
            lines.append(f"- {name}{words}, of {len(merges)}\n")
    return f"{CHOSEN_BY[chosen_by]}\n\n{''.join(lines)}" if lines else ""
