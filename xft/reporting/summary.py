"""Makes the tables of a summary and their explanation, from a table of runs."""

from collections.abc import Callable, Sequence
from pathlib import Path

from xft.evaluation.result import RESULT, TEST_NAMES, backends_note, caveats, tests_of
from xft.reporting import notes, sentences, spreads, tables
from xft.reporting.comparisons import comparison_table, loss_values, solved_values
from xft.reporting.formats import CONTAMINATION, DIVERSITY, LOSS_RESULT
from xft.reporting.runs import Result, Row, results_of
from xft.reporting.templates import templates
from xft.reporting.verdict import decide, find_candidates, known_sets

MOST_LINES = 19  # of the head


def summarise(rows: Sequence[Row], chosen_by: str | None = None) -> tuple:
    """The summary of what a table of runs names: table, comparisons (pandas data frames), Markdown.

    Raises UserError if a file is missing or is no result of its step.

    chosen_by: one of `notes.CHOICES`; None for the validation loss if there is one.
    """
    evaluations = _read(rows, "eval", RESULT.read)
    losses = _read(rows, "validation_loss", LOSS_RESULT.read)
    by_file = {result.file: content for result, content in losses.items()}
    by_label = {result.subject.label: content for result, content in evaluations.items()}
    contaminations = _read(rows, "contamination", CONTAMINATION.read)
    counts = {result.file: content for result, content in contaminations.items()}
    table = tables.summary_table(evaluations, by_file)
    compared = comparison_table([*solved_values(evaluations), *loss_values(losses)])
    mixtures = {
        result.subject.variation(result.seed) or spreads.OWN: content
        for result, content in _read(rows, "diversity", DIVERSITY.read).items()
    }
    chosen_by = chosen_by or ("validation" if losses else "benchmark")
    measured = losses if chosen_by == "validation" else evaluations
    has_seeds = any(result.seed is not None for result in evaluations)
    candidates = list(find_candidates(evaluations, by_file))
    template = templates(__package__).get_template("summary.md.jinja")
    text = template.render(
        table=tables.to_markdown,
        verdict=decide(compared, candidates, known_sets(evaluations)),
        sentences=sentences.sentences,
        readable=sentences.readable,
        differences=list(sentences.quantities(compared)),
        answers=tables.to_markdown(tables.answers_table(candidates)),
        tests=TEST_NAMES["plus"] if any(map(_has_extra, evaluations.values())) else "",
        scores=_scores(table, evaluations, has_seeds),
        has_seeds=has_seeds,
        differs=len({content.get("tokens") for content in losses.values()}) > 1,
        has_samples=any(e["settings"].get("samples", 1) > 1 for e in evaluations.values()),
        chosen_by=chosen_by,
        merges=list(notes.best_merges(chosen_by, rows, measured, by_file)),
        spreads=mixtures and tables.to_markdown(spreads.spreads_table(mixtures)),
        near_zero=f"{spreads.NEAR_ZERO:.0%}",
        equal=list(spreads.nearly_equal(mixtures)),
        learned=notes.learned_from(evaluations),
        counts=counts,
        remarks=[*caveats(evaluations.values()), *backends_note(by_label)],
    )
    return table, compared, text


def head(text: str) -> str:
    """The beginning of a summary's text, for a terminal: decision and scores, as much as fits."""
    blocks = text.split("\n\n")
    table = next(block for block in blocks if block.startswith("| "))
    lines = "\n\n".join(dict.fromkeys([blocks[0], table])).splitlines()
    if (more := len(lines) - MOST_LINES) > 0:
        lines[MOST_LINES - 1 :] = [f"... and {more + 1} more lines in summary.md"]
    return "\n".join(lines)


def _read(rows: Sequence[Row], step: str, read: Callable[[Path], dict]) -> dict[Result, dict]:
    return {result: read(result.file) for result in results_of(rows, step)}


def _has_extra(result: dict) -> bool:
    return len(tests_of(result)) > 1


def _scores(table, results: dict[Result, dict], has_seeds: bool) -> str:
    """The table of scores, with one row for all seeds of a model."""
    table = table.assign(model=[result.subject.label for result in results])
    table["loss_file"] = [result.row.validation_loss for result in results]
    table["result"] = [*results.values()]
    table["has_extra"] = [*map(_has_extra, results.values())]
    shown = tables.over_seeds if has_seeds else tables.readable
    return tables.to_markdown(shown(table))
