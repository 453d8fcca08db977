"""The table of runs, which names the files of results, and what these files say of a model."""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO
from pathlib import Path

import pydantic

from xft.artifacts.manifest import CHOICE, CONTAMINATION, DIVERSITY, LOSS_RESULT
from xft.common.errors import UserError, counted
from xft.common.file_access import read_text
from xft.common.foreign_text import one_line
from xft.config.reading import validated
from xft.config.section import Section, as_csv
from xft.evaluation.result import RESULT, measures, solved_shares, units_of
from xft.evaluation.scoring import TEST_SETS
from xft.hub.named_sets import set_in_words
from xft.reporting.names import key_texts, model_text, value_texts

FORMATS = {known.step: known for known in (RESULT, LOSS_RESULT, DIVERSITY, CONTAMINATION, CHOICE)}
NAMES = ("model", "variant", "control", "plain_variant", "own_name", "dataset")  # columns
MEASURED = tuple(FORMATS)  # the steps whose files a row names
SWEPT_KEY = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
ROWS, LOSS_TESTS = "validation rows", "loss"  # dataset and tests of losses


class RunRow(Section, strict=False):
    """The files with the results of a model in a run, on a set of problems.

    Runs that share a result name the same file. The columns that are paths have a step's name, and
    hold its file.

    variant: empty for the configuration's own values.
    control: the variant that it is compared with. Empty: the configuration's own values or, if the
        table has none, its first variant.
    plain_variant: the variant without the values of the sweep. It counts beside `swept`.
    own_name: of a variant that changes nothing, in a row of it.
    swept: the values of the swept keys, a JSON object; empty without a sweep.
    diversity: of the tuned mixture that the model is or comes from.
    contamination: of the rows that the model learned from, if they were not cleaned of the
    problems.
    choose: how the model's setting was chosen among others.
    """

    model: str
    variant: str = ""
    control: str = ""
    plain_variant: str = ""
    own_name: str = ""
    swept: str = ""
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
        files = {step: getattr(self, step) for step in MEASURED}
        return {step: file for step, file in files.items() if file}

    @property
    def settings(self) -> dict[str, str]:
        """The values of the swept keys, each as JSON."""
        known = json.loads(self.swept) if self.swept else {}
        return {key: json.dumps(value) for key, value in known.items()}

    @property
    def own_variant(self) -> str:
        """The variant without the values of the sweep."""
        return self.plain_variant if self.swept else self.variant

    @pydantic.field_validator("swept")
    @classmethod
    def _swept_has_keys_with_values(cls, text: str) -> str:
        try:
            known = json.loads(text or "{}")
        except (ValueError, RecursionError):
            known = None
        if not isinstance(known, dict) or not all(map(SWEPT_KEY.fullmatch, known)):
            raise ValueError('should be a JSON object, such as {"sft.learning_rate": 5e-4}')
        return text


@dataclass(frozen=True)
class SweptValue:
    """A value of a swept key.

    json: the value. name, text: short forms of the key and of the value, such as lr and 5e-4.
    """

    key: str
    json: str
    name: str
    text: str

    @property
    def value(self) -> object:
        return json.loads(self.json)

    @property
    def words(self) -> str:
        return f"{self.name} {self.text}"


@dataclass(frozen=True)
class NamedModel:
    """A model with all its seeds, on all sets of problems.

    model: its kind. Empty if all models are of one kind.
    variants: those that share one of its files, the configuration's own first.
    variant: in words, without values of a sweep; empty if all variants share the model, and for
        the configuration's own.
    control: the variant that it is compared with, as in `RunRow`.
    settings: its values of the swept keys that it depends on.
    """

    model: str
    variants: tuple[str, ...] = ("",)
    variant: str = ""
    control: str = ""
    settings: tuple["SweptValue", ...] = ()

    @property
    def setting(self) -> str:
        """The values of swept keys in words, such as `lr 5e-4`."""
        return ", ".join(setting.words for setting in self.settings)

    @property
    def label(self) -> str:
        """A name in texts, such as `dense 0.75, lr 5e-4 (vanilla)`."""
        return self.named(model_text(self.model))

    def named(self, model: str) -> str:
        """The label with another name of the model."""
        name = ", ".join(filter(None, [model, self.setting]))
        if not name:
            return self.variant
        return f"{name} ({self.variant})" if self.variant else name

    @cached_property
    def method(self) -> str:
        """The label without values of the sweep: models of a method differ in these alone."""
        return replace(self, settings=()).label


@dataclass(frozen=True)
class Result:
    """A file with a result, which is read once.

    row: the first one that names it; no loss if the rows name several.
    seed: None if the result does not depend on it, or if there is one seed in the table.
    """

    step: str
    subject: NamedModel
    seed: int | None
    file: Path
    row: RunRow

    @property
    def variation(self) -> str:
        """The values of a sweep, variant and seed in words, such as `lr 5e-4, vanilla, seed 43`."""
        seed = "" if self.seed is None else f"seed {self.seed}"
        return ", ".join(filter(None, (self.subject.setting, self.subject.variant, seed)))

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

        content = self.content
        values = self.values(tests)
        low, high = interval(values.values, values.units[1:])
        first, *others = measures(content)
        score = {
            first: 100 * content[first][tests],
            "low": 100 * low,
            "high": 100 * high,
            "passed": content["passed"][tests],
        }
        return score | {name: 100 * content[name][tests] for name in others}

    def values(self, tests: str) -> "Values":
        """The shares of samples that solve each problem, or the losses of the rows.

        tests: a set of them, or `LOSS_TESTS`.
        """
        if tests == LOSS_TESTS:
            return self._losses()
        units = self.content["dataset"]["sha256"], *units_of(self.content)
        shares = solved_shares(self.content, tests)
        return Values(self.subject, self.seed, self.row.dataset, tests, units, shares)

    def _losses(self) -> "Values":
        """The losses of the rows. The id of the tokens, a row's number and its length name it."""
        rows = self.content["rows"]
        losses = [row["loss"] for row in rows]
        weights = tuple(row["tokens"] for row in rows)
        tokens = self.content.get("tokens")
        names = [(tokens, number, length) for number, length in enumerate(weights)]
        units = tokens, *names
        return Values(self.subject, self.seed, ROWS, LOSS_TESTS, units, losses, weights)


@dataclass(frozen=True)
class Values:
    """The values of a model's result on units.

    units: what identifies the set, then the name of each unit. Units of two sets that have the same
    name are drawn together.
    weights: of the units in a mean; None: all are equal.
    """

    subject: NamedModel
    seed: int | None
    dataset: str
    tests: str
    units: tuple
    values: Sequence[float]
    weights: tuple[float, ...] | None = None


def results_of(rows: Sequence[RunRow], step: str) -> list[Result]:
    """The files of a step, each once, in order. Variants that share a file share the model."""
    seeds = {row.seed for row in rows} - {None}
    files: dict[Path, list[RunRow]] = {}
    for row in rows:
        if step in row.files:
            files.setdefault(row.files[step], []).append(row)
    alike = linked([(row.model, row.variant) for row in named] for named in files.values())
    subjects = _subjects(alike, rows)
    results = []
    for file, named in files.items():
        first = min(named, key=lambda row: row.variant != "")
        seed = _only(row.seed for row in named) if len(seeds) > 1 else None
        loss = _only(row.validation_loss for row in named if row.validation_loss)
        row = first.model_copy(update={"validation_loss": loss})
        results.append(Result(step, subjects[first.model, first.variant], seed, file, row))
    return results


def _subjects(
    alike: Mapping[tuple[str, str], Iterable[tuple[str, str]]], rows: Sequence[RunRow]
) -> dict[tuple[str, str], NamedModel]:
    """The subjects by model and variant.

    alike: for each, all that share a file with it.
    """
    by_variant = {row.variant: row for row in rows}
    known = known_settings(by_variant.values())
    groups = dict.fromkeys(tuple(group) for group in alike.values())
    of_groups = {group: _subject(group, by_variant, known) for group in groups}
    count = Counter(subject.label for subject in of_groups.values())
    subjects = {}
    for group, subject in of_groups.items():
        if count[subject.label] > 1:
            subject = _with_first_values(subject)
        for name in group:
            subjects[name] = subject
    return subjects


def _subject(
    alike: Iterable[tuple[str, str]],
    by_variant: Mapping[str, RunRow],
    known: Mapping[str, Mapping[str, SweptValue]],
) -> NamedModel:
    """A model with its names and variants, the configuration's own first.

    Of the swept keys it has those that have one value in all runs that share it.

    by_variant: a row of each variant of the table.
    known: see `known_settings`.
    """
    alike = sorted(alike, key=lambda name: name[1] != "")  # [model, variant]
    names = tuple(dict.fromkeys(variant for _, variant in alike))
    own_names = dict.fromkeys(by_variant[name].own_variant for name in names)
    own_names = sorted(own_names, key=lambda name: name != "")
    is_of_all = {*own_names} == {row.own_variant for row in by_variant.values()}
    variant = "" if is_of_all else _variants_text(own_names)
    swept = [by_variant[name].settings for name in names]
    values = {key: _only(of_run.get(key) for of_run in swept) for key in known}
    settings = tuple(known[key][value] for key, value in values.items() if value is not None)
    return NamedModel(alike[0][0], names, variant, by_variant[names[0]].control, settings)


def _with_first_values(subject: NamedModel) -> NamedModel:
    """A subject that is named by its first run, as another one has the same values of the sweep."""
    return replace(subject, variant=_variants_text(subject.variants), settings=())


def known_settings(rows: Iterable[RunRow]) -> dict[str, dict[str, SweptValue]]:
    """The settings of each swept key with several values, by the value as JSON.

    Keys and values are in the order of the rows.
    """
    values: dict[str, dict[str, None]] = {}
    for row in rows:
        for key, value in row.settings.items():
            values.setdefault(key, {})[value] = None
    values = {key: of_key for key, of_key in values.items() if len(of_key) > 1}
    names = key_texts(values)
    known: dict[str, dict[str, SweptValue]] = {}
    for key, of_key in values.items():
        name = one_line(names[key])
        texts = value_texts(json.loads(value) for value in of_key)
        known[key] = {
            value: SweptValue(key, value, name, one_line(text))
            for value, text in zip(of_key, texts, strict=True)
        }
    return known


def controls_of(rows: Iterable[RunRow]) -> dict[str, str]:
    """The controls of the variants.

    A run that differs from its control only in values of the sweep asks about the sweep. It is its
    own control here.
    """
    by_variant = {row.variant: row for row in rows}
    controls = {}
    for name, row in by_variant.items():
        control = by_variant.get(row.control)
        is_of_sweep = control is not None and control.own_variant == row.own_variant
        controls[name] = name if is_of_sweep else row.control
    return controls


def variant_texts(rows: Sequence[RunRow]) -> dict[str, str]:
    """The variants in words, with their values of the sweep, such as `late, lr 5e-4`.

    The configuration's own values have the name of the first variant that changes nothing. Without
    such a variant they are left out.
    """
    known = known_settings(rows)
    texts = {}
    for row in rows:
        swept = [known[key][value].words for key, value in row.settings.items() if key in known]
        words = [row.own_variant or row.own_name, *swept]
        text = ", ".join(filter(None, words))
        if text:
            texts.setdefault(row.variant, text)
    return texts


def swept_text(swept: Mapping[str, object]) -> str:
    """The values of the swept keys as in `RunRow.swept`."""
    return json.dumps(dict(swept)) if swept else ""


def _only(values: Iterable) -> object:
    """The value that all are; None if they differ, or if there is none."""
    different = {*values}
    return different.pop() if len(different) == 1 else None


def linked(lists: Iterable[Iterable[Hashable]]) -> dict[Hashable, dict[Hashable, None]]:
    """For each item, all items that share a list with it, directly or indirectly, in order."""
    groups: dict[Hashable, dict[Hashable, None]] = {}
    for items in lists:
        group: dict[Hashable, None] = {}
        for item in items:
            if item not in group:
                group.update(groups.get(item, {item: None}))
        for item in group:
            groups[item] = group
    return groups


def _variants_text(variants: Sequence[str]) -> str:
    """The first variant, and how many others there are; empty for the configuration's own."""
    first, *others = variants
    if not first or not others:
        return first
    return f"{first} and {counted(len(others), 'other')}"


def write_runs(rows: Iterable[RunRow]) -> str:
    """The table as CSV."""
    return as_csv(RunRow, rows)


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
                f"{file} names two results of {row.model} on {set_in_words(row.dataset)}: "
                f"{seen[key]} and {row.eval}. Give them different variants or seeds that share no "
                "file, or leave one of them out"
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
