"""Finds out which merges are the best ones, and which scores may be too high."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from xft.reporting.choice import best_merge
from xft.reporting.runs import Result

# What a merge is chosen by, and the step whose result says it.
CHOICES = {"validation": "validation_loss", "benchmark": "eval"}


def contaminated(results: Iterable[Result], counts: Mapping[Path, Mapping]) -> Iterator[str]:
    """How many rows contain a problem of a data set, and which models learned from them, in words.

    counts: contents of the files of step contamination.
    """
    learned: dict[tuple[str, Path], dict[str, None]] = {}
    for result in results:
        if file := result.row.contamination:
            learned.setdefault((result.row.dataset, file), {})[result.subject.label] = None
    for (dataset, file), models in learned.items():
        count, rows = counts[file]["contaminated"], counts[file]["rows"]
        about = f"of the {rows:,} rows that {', '.join(models)} learned from"
        if count:
            verb = "contains" if count == 1 else "contain"
            yield (
                f"{count:,} {about} {verb} a problem of {dataset}: the scores of these models may "
                "be optimistically biased."
            )
        else:
            yield f"None {about} contains a problem of {dataset}."


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
