"""Sentences about results: which merge was chosen, and which scores may be too high."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xft.common.errors import UserError
from xft.reporting.subjects import Names, Subject

CHOICES = ("validation", "benchmark")
CHOSEN_BY = {
    "validation": "The best merge of each mixture, chosen by the lowest loss on the held-out rows:",
    "benchmark": "The best merge of each mixture, chosen by the benchmark itself. Its score is "
    "higher than on new problems, the more so the more merges there were:",
}


def check_evaluated(flag: str, files: Sequence[Path], results: Mapping[Path, dict]) -> None:
    """Raise UserError if a file is not among the results that the summary shows."""
    for file in files:
        if file not in results:
            raise UserError(f"{flag} {file}: must be one of the files of --evals")


def uncleaned_text(
    files: Sequence[Path],
    results: Mapping[Path, dict],
    subjects: Mapping[Path, Subject],
    names: Names,
) -> str:
    """A sentence for each data set of whose problems the rows of some models were not cleaned.

    files: the results of these models. All seeds of a model share a name.
    """
    models: dict[str, dict[str, None]] = {}
    for file in files:
        named = models.setdefault(results[file]["dataset"]["name"], {})
        named[names.label(subjects[file].unseeded)] = None
    return "".join(
        f"The rows that {', '.join(named)} learned from were not cleaned of the problems of "
        f"{dataset}. These scores on {dataset} may be too high.\n"
        for dataset, named in models.items()
    )


def chosen_text(
    chosen_by: str,
    results: Mapping[Path, dict],
    subjects: Mapping[Path, Subject],
    names: Names,
    losses: Mapping[Path, float],
) -> str:
    """A line for the best of the merges of each mixture that has several.

    chosen_by: one of `CHOICES`. losses: on held-out rows, by evaluation.
    """
    lines = []
    for merges in _merges_of_mixtures(results, subjects):
        if chosen_by == "validation":
            scores = {file: -losses[file] for file in merges if file in losses}
        else:
            scores = {file: results[file]["pass@1"]["plus"] for file in merges}
        if len(scores) == len(merges) > 1:
            best = max(scores, key=scores.get)
            loss = losses.get(best)
            words = "" if loss is None else f" (loss {loss:.4f})"
            lines.append(f"- {names.label(subjects[best])}{words}, of {len(merges)}\n")
    return f"{CHOSEN_BY[chosen_by]}\n\n{''.join(lines)}" if lines else ""


def _merges_of_mixtures(
    results: Mapping[Path, dict], subjects: Mapping[Path, Subject]
) -> Iterable[list[Path]]:
    """The evaluations on the first data set of all merges of each tuned mixture."""
    groups: dict[tuple, list[Path]] = {}
    first = next(iter(results.values()))["dataset"]["sha256"]
    for file, result in results.items():
        about = subjects[file]
        if about.model.startswith("dense/") and result["dataset"]["sha256"] == first:
            tuned = [key for key in about.changes if not key.startswith(("mixing.", "merge."))]
            groups.setdefault((*tuned, about.seed), []).append(file)
    return groups.values()
