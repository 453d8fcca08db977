"""The data of summary, page and exports: the results that a table of runs names, read once.

Each part is computed when it is first asked for. The summary's files are tables of these parts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from math import inf
from pathlib import Path

import numpy as np

from xft.common.foreign_text import one_line, printable, without_markup
from xft.common.jinja import templates
from xft.evaluation.result import TEST_NAMES, backends_note, caveats, tests_of
from xft.hub.named_sets import set_in_words
from xft.reporting.chosen import chosen_lines
from xft.reporting.comparisons import (
    COLUMNS,
    OF_MODELS,
    OF_VARIANTS,
    comparison_table,
    difference_rows,
    quantities,
    sentences,
    with_base_tests,
)
from xft.reporting.conclusions import Conclusions
from xft.reporting.names import model_text
from xft.reporting.run_table import (
    LOSS_TESTS,
    MEASURED,
    Result,
    RunRow,
    SweptValue,
    controls_of,
    results_of,
    variant_texts,
)
from xft.reporting.statistics import interval
from xft.reporting.swept import (
    NOT_ASKED_BY_SWEEP,
    Grid,
    Line,
    SweptFigures,
    best_lines,
    find_figures,
    find_grids,
    find_lines,
    find_tables,
)
from xft.reporting.variants import NOT_ASKED, Answer, answer_lines, find_answers
from xft.reporting.verdict import EvaluatedModel, Verdict, decide, find_candidates, known_sets

# What a merge is chosen by, and the step whose result says it.
CHOICES = {"validation": "validation_loss", "benchmark": "eval"}
LOSS_COLUMN, NO_TESTS = "validation loss", "-"
MOST_LINES = 19  # of the head
# No mix of E experts lies further from their mean than sqrt(E) x spread. With 8 experts, that is
# less than 3% of what the tuning changed.
NEAR_ZERO = 0.01
OWN = "as configured"


class Summary:
    """The results by step; comparisons, models and the verdict.

    A file that is missing or is no result of its step is a UserError, where it is first read.
    """

    def __init__(self, rows: Sequence[RunRow], is_here: Callable[[Result], bool] = lambda _: True):
        """is_here: whether a result may be read."""
        self.rows = rows
        self.results = {step: [*filter(is_here, results_of(rows, step))] for step in MEASURED}
        self.evaluations, self.losses = self.results["eval"], self.results["validation_loss"]
        self.has_seeds = any(result.seed is not None for result in self.evaluations)

    @cached_property
    def loss_files(self) -> dict[Path | None, dict]:
        """The contents of the files of validation losses."""
        return {result.file: result.content for result in self.losses}

    def loss(self, row: RunRow) -> float | None:
        """The validation loss of the model of a row, if there is one."""
        content = self.loss_files.get(row.validation_loss)
        return content and content["loss"]

    @cached_property
    def comparisons(self):
        """See `comparison_table`."""
        base = [result.values("base") for result in self.evaluations]
        plus = [result.values("plus") for result in self.evaluations]
        losses = [result.values(LOSS_TESTS) for result in self.losses]
        if [of.values for of in base] == [of.values for of in plus]:
            # No problem has extra tests, or they find no further fault.
            return with_base_tests(comparison_table([*plus, *losses]))
        return comparison_table([*base, *plus, *losses])

    @property
    def comparisons_table(self):
        """The comparisons, with the columns of comparisons.csv."""
        return self.comparisons[COLUMNS]

    @cached_property
    def candidates(self) -> list[EvaluatedModel]:
        return list(find_candidates(self.evaluations, self.loss_files))

    @cached_property
    def verdict(self) -> Verdict | None:
        return decide(self.comparisons, self.candidates, known_sets(self.evaluations))

    @cached_property
    def answers(self) -> list[Answer]:
        """Of each variant, whether it is better than its control."""
        subjects = {r.subject.label: r.subject for r in [*self.evaluations, *self.losses]}
        return find_answers(
            self.comparisons, subjects, controls_of(self.rows), variant_texts(self.rows)
        )

    @cached_property
    def chosen(self) -> list[str]:
        """Sentences on the settings of the methods, if they were chosen."""
        return [*chosen_lines(self.results["choose"])]

    @cached_property
    def swept_figures(self) -> list[SweptFigures]:
        """The figures of the models by quantity, for lines and grids."""
        return [*find_figures(self.evaluations, self.losses)]

    @cached_property
    def swept(self) -> list[Line]:
        """The figures of each value of the swept keys, for each method."""
        return find_lines(self.swept_figures, self.swept_keys, self.comparisons)

    @cached_property
    def grids(self) -> list[Grid]:
        """The figures of the values of each two swept keys, for each method."""
        return find_grids(self.swept_figures)

    @property
    def asked(self) -> list[tuple[str, Sequence[str]]]:
        """Sentences that answer what the configuration asks, each with those that explain it."""
        return [*answer_lines(self.answers), *best_lines(self.swept)]

    @property
    def not_asked(self) -> str:
        """The words before the verdict if it was not asked for; else empty."""
        if self.answers:
            return NOT_ASKED
        return NOT_ASKED_BY_SWEEP if self.swept else ""

    @property
    def statistics(self) -> list[str]:
        """Sentences on what the comparisons show, but for those of variants with their controls."""
        compared = quantities(self.comparisons, OF_MODELS)
        return [line for quantity, rows in compared for line in sentences(quantity, rows)]

    @property
    def conclusions(self) -> Conclusions:
        """All sentences of the summary, which the page reads."""
        answers = [(conclusion, [*reasons]) for conclusion, reasons in self.asked]
        return Conclusions(self.verdict, self.not_asked, answers, self.statistics, self.chosen)

    @property
    def table(self):
        """A pandas data frame with a row for each evaluation, in order.

        It has columns for losses, variants, seeds and swept keys only if there are any.
        """
        import pandas as pd

        varied = self.has_seeds or any(result.subject.variant for result in self.evaluations)
        return pd.DataFrame([self._row(result, varied) for result in self.evaluations])

    @cached_property
    def swept_keys(self) -> list[str]:
        """The swept keys that a model depends on."""
        settings = [setting for r in self.evaluations for setting in r.subject.settings]
        return list(dict.fromkeys(setting.key for setting in settings))

    def _row(self, result: Result, varied: bool) -> dict:
        """A row of `table`. varied: whether it has a variant and a seed."""
        content = result.content
        row = {"model": result.row.model}
        if varied:
            row["variant"] = result.subject.variant
            row["seed"] = "" if result.seed is None else result.seed
        values = {setting.key: _value_cell(setting) for setting in result.subject.settings}
        for key in self.swept_keys:
            row[key] = values.get(key, "")
        row["dataset"] = result.row.dataset
        row["problems"] = content["dataset"]["problems"]
        for tests, score in result.scores.items():
            for name, value in score.items():
                row[f"{name} {tests}"] = value
        if self.losses:
            loss = self.loss(result.row)
            row[LOSS_COLUMN] = "" if loss is None else f"{loss:.4f}"
        row["model folder"] = content["model"]["path"]
        row["eval file"] = str(result.file)
        return row

    def text(self, chosen_by: str | None = None) -> str:
        """All of it as Markdown.

        chosen_by: one of `CHOICES`; None for the validation loss if there is one.
        """
        contents = [result.content for result in self.evaluations]
        has_extra = any(len(tests_of(content)) > 1 for content in contents)
        chosen_by = chosen_by or ("validation" if self.losses else "benchmark")
        mixtures = {result.variation or OWN: result.content for result in self.results["diversity"]}
        by_label = {result.subject.label: result.content for result in self.evaluations}
        template = templates(__package__).get_template("summary.md.jinja")
        text = template.render(
            summary=self,
            set_in_words=set_in_words,
            table=to_markdown,
            difference_rows=difference_rows,
            swept=find_tables(self.swept),
            differences=[
                *quantities(self.comparisons, OF_VARIANTS),
                *quantities(self.comparisons, OF_MODELS),
            ],
            scores=list(self._score_rows(has_extra)),
            outcomes=[{"model": model.label} | model.outcomes for model in self.candidates],
            tests=TEST_NAMES["plus"] if has_extra else "",
            differs=len({content.get("tokens") for content in self.loss_files.values()}) > 1,
            has_samples=any(content["settings"].get("samples", 1) > 1 for content in contents),
            chosen_by=chosen_by,
            merges=list(self._best_merges(chosen_by)),
            spreads=[{"mixture": name} | _spreads(mixtures[name]) for name in mixtures],
            near_zero=f"{NEAR_ZERO:.0%}",
            equal=list(_nearly_equal(mixtures)),
            learned=self._learned_rows(),
            counts={result.file: result.content for result in self.results["contamination"]},
            remarks=[*caveats(contents), *backends_note(by_label)],
        )
        return without_markup(text)

    def _learned_rows(self) -> dict[tuple[str, Path], list[str]]:
        """The models by the data set and the file with the contamination of what they learned."""
        models: dict[tuple[str, Path], dict[str, None]] = {}
        for result in self.evaluations:
            file = result.row.contamination
            if file:
                models.setdefault((result.row.dataset, file), {})[result.subject.label] = None
        return {key: [*labels] for key, labels in models.items()}

    def _score_rows(self, has_extra: bool) -> Iterator[dict]:
        """The rows of the table of scores, with one for all seeds of a model on a data set."""
        groups: dict[tuple, list[Result]] = {}
        for result in self.evaluations:
            key = result.subject.label, result.row.dataset, self.has_seeds or result.file
            groups.setdefault(key, []).append(result)
        names = TEST_NAMES if has_extra else {"base": ""}
        for (label, dataset, _), group in groups.items():
            problems = group[0].content["dataset"]["problems"]
            row = {"model": label, "dataset": dataset, "problems": problems}
            if self.has_seeds:
                row["seeds"] = len(group)
            for tests, name in names.items():
                is_known = tests == "base" or all(len(tests_of(r.content)) > 1 for r in group)
                heading = ", ".join(filter(None, ["pass@1", name]))
                row[heading] = self._score_text(group, tests) if is_known else NO_TESTS
            if self.losses:
                by_file = {result.row.validation_loss: self.loss(result.row) for result in group}
                losses = [loss for loss in by_file.values() if loss is not None]
                row[LOSS_COLUMN] = _mean_text(losses)
            yield row

    def _score_text(self, group: Sequence[Result], tests: str) -> str:
        """pass@1 in percent, its 95% interval and the number that passed; or, over the seeds, the
        mean, its interval over the problems and the seeds' deviation.

        The answers of all seeds to a problem are drawn together.
        """
        scores = [result.scores[tests] for result in group]
        if not self.has_seeds:
            score = scores[0]
            ends = f"{score['low']:.1f} to {score['high']:.1f}"
            return f"{score['pass@1']:.1f} % ({ends}; {score['passed']})"
        values = [result.values(tests) for result in group]
        shares = [share for of_seed in values for share in of_seed.values]
        names = [name for of_seed in values for name in of_seed.units[1:]]
        low, high = (100 * end for end in interval(shares, names))
        shares = [score["pass@1"] for score in scores]
        deviation = f"; seeds ± {np.std(shares, ddof=1):.1f}" if len(shares) > 1 else ""
        return f"{np.mean(shares):.1f} % ({low:.1f} to {high:.1f}{deviation})"

    def _best_merges(self, chosen_by: str) -> Iterator[str]:
        """The best of the merges of each mixture that has several, in words.

        A merge counts once, by its first result; on a benchmark, by that on the first data set. Of
        merges that solve as many problems, the one with the lowest loss is the best.
        """
        step = CHOICES[chosen_by]
        results = {result.file: result for result in self.results[step]}

        def rank(row: RunRow) -> tuple[float, float]:
            score = results[row.files[step]].content.get("pass@1", {"plus": 0.0})["plus"]
            loss = self.loss(row)
            return -score, inf if loss is None else loss

        for merges in self._merges(step, results):
            if len(merges) == 1:
                continue
            best = min(merges, key=rank)
            loss = self.loss(best)
            words = [results[best.files[step]].variation]
            if loss is not None:
                words.append(f"loss {loss:.4f}")
            known = "".join(f" ({word})" for word in words if word)
            yield f"{model_text(best.model)}{known}, of {len(merges)}"

    def _merges(self, step: str, results: Mapping[Path, Result]) -> list[list[RunRow]]:
        """A row of each merge, by mixture. See `_best_merges`.

        results: of the step, by file.
        """
        mixtures: dict[Path, dict[str, RunRow]] = {}
        for row in self.rows:
            if step not in row.files or not row.diversity or not row.model.startswith("dense/"):
                continue
            merges = mixtures.setdefault(row.diversity, {})
            first = next(iter(merges.values()), row)
            if step == CHOICES["validation"] or row.dataset == first.dataset:
                model = results[row.files[step]].content["model"]
                merges.setdefault(model["id"] or model["path"], row)
        return [[*merges.values()] for merges in mixtures.values()]


def head(text: str) -> str:
    """The beginning of a summary's text, for a terminal: decision and scores, as much as fits.

    The file may be somebody else's.
    """
    blocks = printable(text).split("\n\n")
    table = next(block for block in blocks if block.startswith("| "))
    marks = tuple(f"- {words}" for words in (NOT_ASKED, NOT_ASKED_BY_SWEEP))
    not_asked = [block for block in blocks if block.startswith(marks)]
    lines = "\n\n".join(dict.fromkeys([blocks[0], *not_asked, table])).splitlines()
    if len(lines) > MOST_LINES:  # without what explains the sentences
        lines = [line for line in lines if not line.startswith("  - ")]
    if len(lines) > MOST_LINES:
        kept = lines[: MOST_LINES - 1]
        left_out = len(lines) - len(kept)
        lines = [*kept, f"... and {left_out} more lines in summary.md"]
    return "\n".join(lines)


def to_markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table of rows by heading, with aligned columns. A cell may be missing."""
    heads = list(dict.fromkeys(name for row in rows for name in row))
    lines = [heads]
    for row in rows:
        lines.append([_cell(row.get(name, "")) for name in heads])
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    text = ""
    for cells in lines:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        text += f"| {' | '.join(padded)} |\n"
    return text


def _cell(value: object) -> str:
    return one_line(str(value)).replace("|", r"\|")


def _value_cell(setting: SweptValue) -> str:
    """The value of a swept key, a text without quotes."""
    return one_line(setting.value) if isinstance(setting.value, str) else setting.json


def _mean_text(values: Sequence[float]) -> str:
    """The mean of values, and their standard deviation if there are several."""
    if not values:
        return ""
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{deviation}"


def _nearly_equal(mixtures: Mapping[str, dict]) -> Iterator[str]:
    """The mixtures whose experts are nearly equal, and layers of other ones."""
    for name, content in mixtures.items():
        near = [row["layer"] for row in content["layers"] if _is_near_zero(row["spread"])]
        if _is_near_zero(content["spread"]):
            yield f"{name}: all layers together"
        elif near:
            yield f"{name}: layers {one_line(', '.join(map(str, near)))}"


def _is_near_zero(spread: float | None) -> bool:
    return spread is not None and spread < NEAR_ZERO


def _spreads(content: dict) -> dict[str, str]:
    """Spreads of the whole mixture, and of the layers with the smallest and the largest one; the
    router's entropy and imbalance if the file has them.
    """
    of_layers = [row["spread"] for row in content["layers"] if row["spread"] is not None]
    spreads = {
        "spread": content["spread"],
        "smallest of a layer": min(of_layers, default=None),
        "largest of a layer": max(of_layers, default=None),
    }
    cells = {}
    for name, spread in spreads.items():
        cells[name] = "" if spread is None else f"{100 * spread:.1f} %"
    routing = content.get("routing") or {}
    for key in ("entropy", "imbalance"):
        if routing.get(key) is not None:
            cells[f"router's {key}"] = f"{routing[key]:.3f}"
    return cells
