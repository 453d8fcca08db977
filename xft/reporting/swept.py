"""Which value of a swept key is the best, for each method, and how sure that is.

The comparisons of values are a family of their own in Holm's correction. It has all pairs that
differ in one key, not those with the best value alone: the best one is chosen by the same data.
"""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import inf, isfinite, nan

import numpy as np

from xft.config.section import keys, limits
from xft.config.sections import SECTIONS
from xft.reporting.comparisons import (
    LOSSES,
    OF_SWEEP,
    SCORES,
    Quantity,
    difference_text,
    pooled_sets,
    quantities,
)
from xft.reporting.names import name_list
from xft.reporting.run_table import LOSS_TESTS, NamedModel, Result, SweptValue, Values
from xft.reporting.statistics import DIGITS, interval, mean_interval
from xft.reporting.verdict import NAMED

MOST_EXPLAINED = 3  # sentences
NEXT = 2  # values whose differences from the best one are told
BEST, WORSE = "best", "worse"  # marks in the tables
NOT_ASKED_BY_SWEEP = "The sweep did not ask which of all models to take:"
ONE_SEED = (
    "With one seed, this compares trained models, and another seed gives other ones. `seeds: [42, "
    "43, 44]` compares the values."
)


@dataclass(frozen=True)
class Figure:
    """A quantity of a model over its seeds: a share of solved problems, or a loss.

    mean, low, high: with the 95% interval over the units, for these seeds.
    by_seed: the value of each seed; the only key is None if the table has one seed.
    units: what it was measured on. Figures on other units cannot be compared.
    """

    mean: float
    low: float
    high: float
    by_seed: Mapping[int | None, float]
    units: Hashable = ()

    def text(self, quantity: Quantity) -> str:
        """The mean and its interval, such as `0.2093 (0.2011 to 0.2175)`."""
        mean, low, high = (quantity.number(value) for value in (self.mean, self.low, self.high))
        return f"{mean} ({low} to {high})"


@dataclass(frozen=True)
class Point:
    """A value of a swept key, with what was measured of a model.

    label: of the model.
    """

    setting: SweptValue
    label: str
    figure: Figure

    @property
    def text(self) -> str:
        return self.setting.text


@dataclass(frozen=True)
class Line:
    """The values of a swept key for a method. Other swept keys have the values of the best model.

    quantity: by which the best value is found.
    key: as in the configuration. name: a short form of it.
    method: such as `dense 0.75` or `sft (vanilla)`.
    others: the values of the other swept keys in words; empty without such keys.
    points: several; numbers in ascending order, other values in the order of the configuration.
    rows: the comparison of each other value with the first of the best ones, by its label, as named
        tuples of `comparison_table` that have the value's model second. A value may lack one.
    pairs: the number of comparisons in the family.
    level: the figures of the models that depend on no swept key, by label.
    """

    quantity: Quantity
    key: str
    name: str
    method: str
    others: str
    points: Sequence[Point]
    rows: Mapping[str, tuple] = field(default_factory=dict)
    pairs: int = 0
    level: Mapping[str, Figure] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The method with the values of the other keys: `sft, steps 90`."""
        return ", ".join(filter(None, [self.method, self.others]))

    @property
    def best(self) -> list[Point]:
        """The points with the best mean. There are several if they are equal."""
        ranks = [_rank(self.quantity, point.figure) for point in self.points]
        lowest = min(ranks)
        return [point for point, rank in zip(self.points, ranks, strict=True) if rank == lowest]

    @property
    def others_ranked(self) -> list[Point]:
        """The points that are not the best ones, the better ones first."""
        best = self.best
        others = [point for point in self.points if point not in best]
        return sorted(others, key=lambda point: _rank(self.quantity, point.figure))

    def is_worse(self, point: Point) -> bool:
        """Whether a value is significantly worse than the best one."""
        row = self.rows.get(point.label)
        return row is not None and bool(row.significant)

    @property
    def worse(self) -> list[str]:
        """The values that are significantly worse than the best one, the better ones first."""
        return [point.text for point in self.others_ranked if self.is_worse(point)]

    @property
    def open(self) -> list[str]:
        """The values of which no difference from the best one was found, the better ones first."""
        return [point.text for point in self.others_ranked if not self.is_worse(point)]

    @property
    def has_numbers(self) -> bool:
        return all(_is_number(point.setting.value) for point in self.points)

    @property
    def edge(self) -> str:
        """`lowest` or `highest` if the only best value is the last one that was tried in this
        direction, and the key may have further ones; else empty.
        """
        if not self.has_numbers or len(self.best) > 1:
            return ""
        best = self.best[0]
        least, most = _limits(self.key)
        if best is self.points[0] and best.setting.value > least:
            return "lowest"
        if best is self.points[-1] and best.setting.value < most:
            return "highest"
        return ""

    @property
    def lacking(self) -> list[str]:
        """The values that lack a seed which others have."""
        seeds = {seed for point in self.points for seed in point.figure.by_seed}
        return [point.text for point in self.points if seeds - point.figure.by_seed.keys()]


@dataclass(frozen=True)
class Grid:
    """The values of two swept keys for a method. Further keys have the values of the best model.

    names: short forms of the keys.
    texts: the values of each key, in the order of `Line.points`.
    figures: by the texts of both values.
    best: the texts of the best model.
    """

    quantity: Quantity
    method: str
    others: str
    names: tuple[str, str]
    texts: tuple[Sequence[str], Sequence[str]]
    figures: Mapping[tuple[str, str], Figure]
    best: tuple[str, str]

    @property
    def title(self) -> str:
        """Such as `sft, rank 8: validation loss by lr and steps`."""
        method = ", ".join(filter(None, [self.method, self.others]))
        return f"{method}: {self.quantity.name} by {name_list(self.names)}"


class SweptFigures:
    """The figures of a quantity of all models.

    by_model: the figures, in the order of the tables.
    level: those of the models that depend on no swept key, by label.
    methods: the other models by method. One without a finite figure is left out, and so is a method
        whose models were measured on different units.
    """

    def __init__(self, quantity: Quantity, figures: Mapping[NamedModel, Figure]):
        self.quantity = quantity
        self.by_model = figures
        self.level: dict[str, Figure] = {}
        methods: dict[str, list[NamedModel]] = {}
        for subject, figure in figures.items():
            if not subject.settings:
                self.level[subject.label] = figure
            elif isfinite(figure.mean):
                methods.setdefault(subject.method, []).append(subject)
        self.methods = {
            method: subjects
            for method, subjects in methods.items()
            if len({figures[subject].units for subject in subjects}) == 1
        }

    def best(self, method: str) -> NamedModel:
        """The first model of a method with the best mean."""
        return min(self.methods[method], key=lambda s: _rank(self.quantity, self.by_model[s]))

    def keys(self, method: str) -> list[str]:
        """The swept keys of a method's best model."""
        return [setting.key for setting in self.best(method).settings]

    def beside_best(self, method: str, *keys: str) -> list[NamedModel]:
        """The models of a method that differ from its best one at most in values of these keys."""
        fixed = _others(self.best(method), keys)
        return [
            subject
            for subject in self.methods[method]
            if _others(subject, keys) == fixed and _has_keys(subject, keys)
        ]


def find_lines(all_figures: Iterable[SweptFigures], swept_keys: Sequence[str], table) -> list[Line]:
    """A line for each quantity, swept key and method with several values of it, losses first.

    swept_keys: in order.
    table: see `comparison_table`.
    """
    compared = dict(quantities(table, OF_SWEEP))
    lines = []
    for figures in all_figures:
        known = compared.get(figures.quantity)
        rows = [] if known is None else [*known.itertuples()]
        of_quantity = [
            _line(figures, key, method, rows)
            for method in figures.methods
            for key in figures.keys(method)
            if len(figures.beside_best(method, key)) > 1
        ]
        lines += sorted(of_quantity, key=lambda line: swept_keys.index(line.key))
    return lines


def _line(figures: SweptFigures, key: str, method: str, rows: Sequence[tuple]) -> Line:
    subjects = figures.beside_best(method, key)
    points = [
        Point(_setting(subject, key), subject.label, figures.by_model[subject])
        for subject in subjects
    ]
    if all(_is_number(point.setting.value) for point in points):
        points.sort(key=lambda point: point.setting.value)
    others = ", ".join(setting.words for setting in _others(subjects[0], [key]))
    line = Line(figures.quantity, key, points[0].setting.name, method, others, points)
    compared = _against(line.best[0].label, rows)
    return replace(line, rows=compared, pairs=len(rows), level=figures.level)


def _against(label: str, rows: Sequence[tuple]) -> dict[str, tuple]:
    """The comparisons with a model, which comes first, by the label of the other model."""
    compared = {row.second: row for row in rows if row.first == label}
    for row in rows:
        if row.second == label:
            compared[row.first] = _turned(row)
    return compared


def _turned(row: tuple) -> tuple:
    """A comparison with its models exchanged."""
    return row._replace(
        first=row.second,
        second=row.first,
        seeds_first=row.seeds_second,
        seeds_second=row.seeds_first,
        difference=-row.difference,
        low=-row.high,
        high=-row.low,
    )


def find_grids(all_figures: Iterable[SweptFigures]) -> list[Grid]:
    """For each quantity and method the values of each two of its swept keys."""
    grids = []
    for figures in all_figures:
        for method in figures.methods:
            for keys_of_grid in combinations(figures.keys(method), 2):
                grids.append(_grid(figures, method, keys_of_grid))
    return grids


def _grid(figures: SweptFigures, method: str, keys: tuple[str, str]) -> Grid:
    subjects = figures.beside_best(method, *keys)
    best = figures.best(method)
    names = []
    texts = []
    for key in keys:
        settings = [_setting(subject, key) for subject in subjects]
        names.append(settings[0].name)
        texts.append([setting.text for setting in _in_order(settings)])
    return Grid(
        quantity=figures.quantity,
        method=method,
        others=", ".join(setting.words for setting in _others(best, keys)),
        names=tuple(names),
        texts=tuple(texts),
        figures={_texts(subject, keys): figures.by_model[subject] for subject in subjects},
        best=_texts(best, keys),
    )


def _texts(subject: NamedModel, keys: Iterable[str]) -> tuple[str, ...]:
    """The values of a model for these keys."""
    return tuple(_setting(subject, key).text for key in keys)


def _in_order(settings: Iterable[SweptValue]) -> list[SweptValue]:
    """Each setting once: numbers in ascending order, others in theirs."""
    settings = list(dict.fromkeys(settings))
    if all(_is_number(setting.value) for setting in settings):
        settings.sort(key=lambda setting: setting.value)
    return settings


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _limits(key: str) -> tuple[float, float]:
    """The range of a key; infinite for one that the configuration does not have."""
    name, _, end = key.partition(".")
    section = SECTIONS.get(name)
    return limits(section, end) if section and end in keys(section) else (-inf, inf)


def _setting(subject: NamedModel, key: str) -> SweptValue:
    return next(setting for setting in subject.settings if setting.key == key)


def _others(subject: NamedModel, keys: Collection[str]) -> list[SweptValue]:
    """The settings of a model but for these keys."""
    return [setting for setting in subject.settings if setting.key not in keys]


def _has_keys(subject: NamedModel, keys: Collection[str]) -> bool:
    return {*keys} <= {setting.key for setting in subject.settings}


def _rank(quantity: Quantity, figure: Figure) -> float:
    """A number that is lower for better figures, and the same for those that differ by rounding."""
    return round(-quantity.sign * figure.mean, DIGITS)


# Figures


def find_figures(evaluations: Sequence[Result], losses: Sequence[Result]) -> Iterator[SweptFigures]:
    """The figures of the losses, then those of the scores."""
    of_losses = _by_subject([result.values(LOSS_TESTS) for result in losses])
    loss_figures = {subject: loss_figure(values) for subject, values in of_losses.items()}
    yield SweptFigures(LOSSES, loss_figures)
    scores = [result.values(SCORES.tests) for result in evaluations]
    datasets = dict.fromkeys(values.dataset for values in scores)
    live = {values.dataset for values in scores if any(values.values)}
    pooled = pooled_sets(datasets, live)
    of_scores = _by_subject([values for values in scores if values.dataset in pooled])
    score_figures = {subject: score_figure(values) for subject, values in of_scores.items()}
    yield SweptFigures(SCORES, score_figures)


def _by_subject(values: Iterable[Values]) -> dict[NamedModel, list[Values]]:
    groups: dict[NamedModel, list[Values]] = {}
    for of_seed in values:
        groups.setdefault(of_seed.subject, []).append(of_seed)
    return groups


def loss_figure(values: Sequence[Values]) -> Figure:
    """The mean validation loss over the seeds. The interval is over the rows.

    values: of each seed. If seeds have different rows, the figure is NaN.
    """
    first = values[0]
    if any(of_seed.units != first.units for of_seed in values):
        return Figure(nan, nan, nan, {})
    by_seed = {
        of_seed.seed: float(np.average(of_seed.values, weights=of_seed.weights))
        for of_seed in values
    }
    of_rows = np.mean([of_seed.values for of_seed in values], axis=0)
    loss = mean_interval(of_rows, first.weights)
    return Figure(loss["value"], loss["low"], loss["high"], by_seed, first.units)


def score_figure(values: Sequence[Values]) -> Figure:
    """The mean pass@1 over the seeds and data sets. The interval is over the problems, and draws
    the answers of all seeds to a problem together.

    values: of each seed and data set.
    """
    seeds: dict[int | None, list[float]] = {}
    for of_set in values:
        seeds.setdefault(of_set.seed, []).extend(of_set.values)
    shares = [share for of_set in values for share in of_set.values]
    names = [name for of_set in values for name in of_set.units[1:]]
    by_seed = {seed: float(np.mean(of_seed)) for seed, of_seed in seeds.items()}
    units = frozenset(of_set.units for of_set in values)
    return Figure(float(np.mean(shares)), *interval(shares, names), by_seed, units)


# In words


def best_lines(lines: Sequence[Line]) -> Iterator[tuple[str, Sequence[str]]]:
    """Sentences about the best values, each with those that explain it.

    One sentence for all methods of which it says the same. pass@1 explains what the losses say. Of
    many sentences none is explained.
    """
    first = LOSSES if any(line.quantity is LOSSES for line in lines) else SCORES
    groups = _alike([line for line in lines if line.quantity is first])
    for group in groups:
        is_explained = len(groups) <= MOST_EXPLAINED
        others = [line for line in lines if line.quantity is not first and _is_beside(line, group)]
        yield conclusion(group), [*_reasons(group, others)] if is_explained else []


def _alike(lines: Iterable[Line]) -> list[list[Line]]:
    """Lines in groups of which one sentence says all."""
    groups: dict[tuple, list[Line]] = {}
    for line in lines:
        groups.setdefault((line.key, *_said(line)), []).append(line)
    return [*groups.values()]


def _is_beside(line: Line, group: Sequence[Line]) -> bool:
    """Whether a line is about the key and a method of other lines."""
    return any((line.key, line.method) == (other.key, other.method) for other in group)


def _reasons(group: Sequence[Line], others: Sequence[Line]) -> Iterator[str]:
    """Sentences with the figures of lines, and with what another quantity says."""
    for line in group[:NAMED]:
        yield _figures(line)
    for alike in _alike(others):
        yield conclusion(alike)
    for line in group:
        if line.lacking:
            lacking = name_list(line.lacking)
            yield f"{line.title}: not all seeds have {lacking}, so its mean is over fewer seeds."
    if all(len(point.figure.by_seed) == 1 for line in group for point in line.points):
        yield ONE_SEED


def conclusion(lines: Sequence[Line]) -> str:
    """A sentence about the best value. lines: of one key, which all say the same."""
    line = lines[0]
    names = _titles(lines)
    best, worse, is_open, edge = _said(line)
    if len(best) == len(line.points):
        return f"Of `{line.key}`, all values have the same {line.quantity.name} for {names}."
    subject = f"Of `{line.key}`, {name_list(best)}"
    if len(best) > 1:
        parts = [f"{subject} have the {_extreme(line)} for {names} equally"]
    else:
        parts = [f"{subject} has the {_extreme(line)} for {names}"]
    if worse:
        parts.append(f"{name_list(worse)} {'are' if len(worse) > 1 else 'is'} significantly worse")
    if is_open:
        parts.append(f"no difference from {name_list(is_open)} was found")
    if edge:
        direction = "lower" if edge == "lowest" else "higher"
        parts.append(f"{best[0]} is the {edge} value that was tried: try {direction} ones")
    return f"{'; '.join(parts)}."


def _titles(lines: Sequence[Line]) -> str:
    """The methods, with the values of other keys: `sft and moe_sft (with steps 90)`."""
    by_others: dict[str, list[str]] = {}
    for line in lines:
        by_others.setdefault(line.others, []).append(line.method)
    titles = []
    for others, methods in by_others.items():
        names = name_list(methods)
        titles.append(f"{names} (with {others})" if others else names)
    return name_list(titles)


def _said(line: Line) -> tuple:
    """The findings that the conclusion about a line states: the same ones make one sentence."""
    best = tuple(point.text for point in line.best)
    return best, tuple(line.worse), tuple(line.open), line.edge


def _extreme(line: Line) -> str:
    """`lowest validation loss`, or `highest pass@1`."""
    return f"{'lowest' if line.quantity.sign < 0 else 'highest'} {line.quantity.name}"


def _figures(line: Line) -> str:
    """The figure of the best value, and the differences of the next ones from it."""
    best = line.best[0]
    unit = " %" if line.quantity is SCORES else ""
    parts = [f"{best.figure.text(line.quantity)}{unit} with {best.text}"]
    for point in line.others_ranked[:NEXT]:
        row = line.rows.get(point.label)
        if row:
            words = difference_text(line.quantity, row, line.pairs)
            parts.append(f"with {point.text} {words}")
        else:
            parts.append(f"{point.text} cannot be compared")
    return f"{line.title}: {line.quantity.name} {'; '.join(parts)}."


# Tables


@dataclass(frozen=True)
class Table:
    """The values of a swept key by methods.

    title: such as `validation loss over sft.learning_rate`.
    rows: texts by heading, for Markdown and for the page.
    lines: what it shows.
    """

    title: str
    rows: Sequence[Mapping[str, str]]
    lines: Sequence[Line]

    @property
    def note(self) -> str:
        """Which values the other swept keys have; empty without such keys."""
        others: dict[str, list[str]] = {}
        for line in self.lines:
            others.setdefault(line.others, []).append(line.method)
        named = [f"{name_list(methods)}: {words}" for words, methods in others.items() if words]
        if not named:
            return ""
        words = self.lines[0].others if len(others) == 1 else "; ".join(named)
        return f"Other swept keys have the values of the best model: {words}."


def find_tables(lines: Sequence[Line]) -> list[Table]:
    """A table for each key and quantity, in the order of the lines."""
    groups: dict[tuple[str, Quantity], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.key, line.quantity), []).append(line)
    return [_table(group) for group in groups.values()]


def _table(lines: Sequence[Line]) -> Table:
    first = lines[0]
    unit = ", %" if first.quantity is SCORES else ""
    settings = _in_order(point.setting for line in lines for point in line.points)
    cells = {line.method: _cells(line) for line in lines}
    rows = []
    for setting in settings:
        row = {first.name: setting.text}
        for method, of_line in cells.items():
            row[method] = of_line.get(setting.text, "")
        rows.append(row)
    return Table(f"{first.quantity.name}{unit} over {first.key}", rows, lines)


def _cells(line: Line) -> dict[str, str]:
    """The figure of each value, and whether it is the best or significantly worse."""
    texts = {}
    for point in line.points:
        text = point.figure.text(line.quantity)
        if point in line.best:
            text += f", {BEST}"
        elif line.is_worse(point):
            text += f", {WORSE}"
        texts[point.text] = text
    return texts
