"""The table of runs, which names the files of results, and what these files say of a model."""

import csv
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path

from xft.artifacts.manifest import CHOICE, CONTAMINATION, DIVERSITY, LOSS_RESULT
from xft.common.errors import UserError, counted
from xft.common.file_access import read_text
from xft.common.foreign_text import one_line
from xft.config.reading import validated
from xft.config.section import Section
from xft.evaluation.result import RESULT, measures, solved_shares, units_of
from xft.evaluation.scoring import TEST_SETS

FORMATS = {known.step: known for known in (RESULT, LOSS_RESULT, DIVERSITY, CONTAMINATION, CHOICE)}
NAMES = ("model", "variant", "dataset")  # columns
MEASURED = tuple(FORMATS)  # the steps whose files a row names
ROWS, LOSS_TESTS = "validation rows", "loss"  # dataset and tests of losses


class RunRow(Section, strict=False):
    """What was measured of a model in a run, on a set of problems.

    Runs that share a result name the same file. The columns that are paths have a step's name, and
    hold its file.

    variant: empty for the configuration's own values.
    control: the variant that it is compared with. Empty: the configuration's own values or, if the
        table has none, its first variant.
    diversity: of the tuned mixture that the model is or comes from.
    contamination: of the rows that the model learned from, if they were not cleaned of the
    problems.
    choose: how the model's setting was chosen among others.
    """

    model: str
    variant: str = ""
    control: str = ""
    seed: int | None = None
    dataset: str
    eval: Path
    validation_loss: Path | None = None
    diversity: Path | None = None
    contamination: Path | None = None
    choose: Path | None = None

    @property
    def files(self) -> dict[str, Path]:
        """The files by step."""
        return {step: file for step in MEASURED if (file := getattr(self, step))}


@dataclass(frozen=True)
class Subject:
    """A model with all its seeds, on all sets of problems.

    model: its kind. Empty if all models are of one kind.
    variants: those that share one of its files, the configuration's own first.
    variant: in words; empty if all variants share the model, and for the configuration's own.
    control: the variant that it is compared with, as in `RunRow`.
    """

    model: str
    variants: tuple[str, ...] = ("",)
    variant: str = ""
    control: str = ""

    @property
    def label(self) -> str:
        """A name in texts, such as `dense/lam~0.75 (vanilla)`."""
        if not self.model:
            return self.variant
        return f"{self.model} ({self.variant})" if self.variant else self.model


@dataclass(frozen=True)
class Result:
    """A file with a result, which is read once.

    row: the first one that names it; no loss if the rows name several.
    seed: None if the result does not depend on it, or if there is one seed in the table.
    """

    step: str
    subject: Subject
    seed: int | None
    file: Path
    row: RunRow

    @property
    def variation(self) -> str:
        """The variant and the seed in words, such as `vanilla, seed 43`."""
        seed = "" if self.seed is None else f"seed {self.seed}"
        return ", ".join(filter(None, (self.subject.variant, seed)))

    @cached_property
    def content(self) -> dict:
        """Raises UserError if the file is missing or is no result of its step."""
        return FORMATS[self.step].read(self.file)

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """pass@1, its 95% interval from low to high and further measures, in percent, and the
        number of samples that passed, for each set of tests.
        """
        return {tests: self._score(tests) for tests in TEST_SETS}

    def _score(self, tests: str) -> dict[str, float]:
        from xft.reporting.statistics import interval

        content, values = self.content, self.values(tests)
        low, high = interval(values.values, values.units[1:])
        first, *others = measures(content)
        score = {first: 100 * content[first][tests], "low": 100 * low, "high": 100 * high}
        score["passed"] = content["passed"][tests]
        return score | {name: 100 * content[name][tests] for name in others}

    def values(self, tests: str) -> "Values":
        """The shares of samples that solve each problem, or the losses of the rows.

        tests: a set of them, or `LOSS_TESTS`.
        """
        content, units, weights = self.content, (), None
        if tests == LOSS_TESTS:
            weights = tuple(row["tokens"] for row in content["rows"])
            rows, known = [row["loss"] for row in content["rows"]], content.get("tokens")
            units = known, *((known, *row) for row in enumerate(weights))
            return Values(self.subject, self.seed, ROWS, tests, units, rows, weights)
        units = content["dataset"]["sha256"], *units_of(content)
        shares = solved_shares(content, tests)
        return Values(self.subject, self.seed, self.row.dataset, tests, units, shares)


@dataclass(frozen=True)
class Values:
    """The values of a model's result on units.

    units: what identifies the set, then the name of each unit. Units of two sets that have the same
    name are drawn together.
    weights: of the units in a mean; None: all are equal.
    """

    subject: Subject
    seed: int | None
    dataset: str
    tests: str
    units: tuple
    values: Sequence[float]
    weights: tuple[float, ...] | None = None


def results_of(rows: Sequence[RunRow], step: str) -> list[Result]:
    """The files of a step, each once, in order. Variants that share a file share the model."""
    seeds = {row.seed for row in rows} - {None}
    controls = {row.variant: row.control for row in rows}
    files: dict[Path, list[RunRow]] = {}
    for row in rows:
        if step in row.files:
            files.setdefault(row.files[step], []).append(row)
    alike = linked([(row.model, row.variant) for row in named] for named in files.values())
    results = []
    for file, named in files.items():
        first = min(named, key=lambda row: row.variant != "")
        subject = _subject(alike[first.model, first.variant], controls)
        seed = _only(row.seed for row in named) if len(seeds) > 1 else None
        loss = _only(row.validation_loss for row in named if row.validation_loss)
        row = first.model_copy(update={"validation_loss": loss})
        results.append(Result(step, subject, seed, file, row))
    return results


def _subject(alike: Iterable[tuple[str, str]], controls: Mapping[str, str]) -> Subject:
    """A model with its names and variants, the configuration's own first.

    controls: of all variants of the table.
    """
    alike = sorted(alike, key=lambda about: about[1] != "")
    names = tuple(dict.fromkeys(variant for _, variant in alike))
    variant = "" if {*names} == controls.keys() else _in_words(names)
    return Subject(alike[0][0], names, variant, controls[names[0]])


def _only(values: Iterable) -> object:
    """The value that all are; None if they differ, or if there is none."""
    different = {*values}
    return different.pop() if len(different) == 1 else None


def linked(lists: Iterable[Iterable[Hashable]]) -> dict[Hashable, dict[Hashable, None]]:
    """For each item, all items that share a list with it, directly or indirectly, in order."""
    groups = {}
    for items in lists:
        group = {}
        for item in items:
            if item not in group:
                group |= groups.get(item, {item: None})
        groups |= dict.fromkeys(group, group)
    return groups


def _in_words(variants: Sequence[str]) -> str:
    first, *others = variants
    count = f" and {counted(len(others), 'other')}" if others else ""
    return first and first + count


def write_runs(rows: Iterable[RunRow]) -> str:
    """The table as CSV."""
    text = StringIO()
    table = csv.DictWriter(text, RunRow.model_fields, lineterminator="\n")
    table.writeheader()
    table.writerows(row.model_dump() for row in rows)
    return text.getvalue()


def read_runs(file: Path) -> list[RunRow]:
    """The rows of a table. Its paths are relative to its folder.

    Raises UserError if it is no such table, has no rows, or names two results of a model.
    """
    try:
        table = csv.DictReader(StringIO(read_text(file)), strict=True)
        rows = [
            validated(RunRow, _values(row, file), f"{file}, line {table.line_num}") for row in table
        ]
    except csv.Error as error:
        raise UserError(f"{file} is not a CSV file: {error}") from None
    if not rows:
        raise UserError(f"{file} names no results. Add a row for each result")
    seen: dict[tuple, Path] = {}
    subjects = {result.file: result.subject for result in results_of(rows, "eval")}
    for row in rows:
        key = subjects[row.eval], row.seed, row.dataset
        if seen.setdefault(key, row.eval) != row.eval:
            raise UserError(
                f"{file} names two results of {row.model} on {row.dataset}: {seen[key]} and "
                f"{row.eval}. Give them different variants or seeds that share no file, or leave "
                "one of them out"
            )
    return rows


def _values(line: dict[str, str], table: Path) -> dict[str, object]:
    """The values of a row, with paths as seen from here. Empty cells are left out.

    Others may have written the table: a name is a part of a line.
    """
    known = {name: value for name, value in line.items() if value}
    known |= {name: one_line(known[name]) for name in NAMES if name in known}
    files = {step: known[step] for step in MEASURED if step in known}
    return known | {step: Path(os.path.normpath(table.parent / files[step])) for step in files}
