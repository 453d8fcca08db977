"""Sentences about results: which merge was chosen, and which scores may be too high."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from workflow_scripts.common.errors import UserError
from workflow_scripts.reporting.subjects import Names, Subject

CHOICES = ("validation", "benchmark")
CHOSEN_BY = {
    "validation": "The merges that were chosen by the lowest loss on the held-out rows:",
    "benchmark": "The merges that were chosen by the benchmark itself. Their scores on it are "
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
    files: Sequence[Path],
    chosen_by: str,
    results: Mapping[Path, dict],
    subjects: Mapping[Path, Subject],
    names: Names,
    losses: Mapping[str, float],
) -> str:
    """A line for each merge that was chosen, with its loss on the held-out rows, if it is known.

    files: results of these merges. chosen_by: one of `CHOICES`. losses: by model folder.
    """
    lines = {}
    for file in files:
        loss = losses.get(results[file]["model"]["path"])
        words = "" if loss is None else f" (loss {loss:.4f})"
        lines[f"- {names.label(subjects[file])}{words}\n"] = None
    return f"{CHOSEN_BY[chosen_by]}\n\n{''.join(lines)}" if lines else ""
