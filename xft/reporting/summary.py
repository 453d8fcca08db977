"""Makes the tables of a summary and their explanation, from a table of runs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xft.evaluation import lm_eval_result
from xft.evaluation.result import backends_note, caveats, read_result
from xft.reporting import notes, tables
from xft.reporting.comparisons import (
    comparison_table,
    comparisons_text,
    loss_values,
    solved_values,
)
from xft.reporting.diversity import DIVERSITY
from xft.reporting.lm_eval import lm_eval_table
from xft.reporting.runs import Result, Row, results_of
from xft.reporting.spreads import OWN, spreads_table, spreads_text
from xft.reporting.validation_losses import LOSS


@dataclass(frozen=True)
class Summary:
    """table, comparisons: pandas data frames. text: Markdown."""

    table: object
    comparisons: object
    text: str


def summarise(rows: Sequence[Row], chosen_by: str | None = None) -> Summary:
    """The summary of what a table of runs names.

    chosen_by: one of `notes.CHOICES`; None for the loss on held-out rows if there is one. Raises
    UserError if a file is missing or is no result of its step.
    """
    evaluations = _read(rows, "eval", read_result)
    losses = _read(rows, "validation_loss", LOSS.read)
    by_file = {found.file: content for found, content in losses.items()}
    table = tables.summary_table(evaluations, by_file)
    compared = comparison_table([*solved_values(evaluations), *loss_values(losses)])
    spreads = {
        found.subject.variation(found.seed) or OWN: content
        for found, content in _read(rows, "diversity", DIVERSITY.read).items()
    }
    measured = _read(rows, "lm_eval", lm_eval_result.read)
    chosen_by = chosen_by or ("validation" if losses else "benchmark")
    parts = [*_scores(table, evaluations), *comparisons_text(compared)]
    parts.append(notes.chosen_text(chosen_by, evaluations, by_file))
    if spreads:
        parts += [tables.to_markdown(spreads_table(spreads)), spreads_text(spreads)]
    if measured:
        parts.append(tables.to_markdown(lm_eval_table(measured)))
    parts += [notes.uncleaned_text(list(evaluations)), *_remarks(evaluations)]
    return Summary(table, compared, "\n".join(filter(None, parts)).rstrip() + "\n")


def _read(rows: Sequence[Row], step: str, read: Callable[[Path], dict]) -> dict[Result, dict]:
    return {found: read(found.file) for found in results_of(rows, step)}


def _has_seeds(results: Iterable[Result]) -> bool:
    return any(found.seed is not None for found in results)


def _scores(table, results: dict[Result, dict]) -> list[str]:
    """The table of scores, with one row for all seeds of a model, and what explains it."""
    table = table.assign(model=[found.subject.label for found in results])
    if _has_seeds(results):
        return [tables.to_markdown(tables.over_seeds(table)), tables.SEEDS_LEGEND]
    legend = tables.legend(results.values())
    return [tables.to_markdown(tables.readable(table)), legend, tables.list_files(table)]


def _remarks(results: dict[Result, dict]) -> Iterable[str]:
    """What a reader of the scores must know."""
    backends = {
        found.subject.label: content["settings"].get("backend", "transformers")
        for found, content in results.items()
    }
    return [*caveats(results.values()), *backends_note(backends)]
