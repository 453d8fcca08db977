"""Finds out what the sections of the report show: charts, tables, texts and problems."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import ceil, isnan
from operator import itemgetter
from statistics import median

from xft.evaluation.result import TEST_NAMES
from xft.evaluation.scoring import PASSED
from xft.reporting.comparisons import LOSSES, POOLED, SCORES, Quantity
from xft.reporting.page.charts import drawn, lines, paint
from xft.reporting.page.folder import Folder, Solution
from xft.reporting.run_table import LOSS_TESTS, ROWS
from xft.reporting.variants import NOT_ASKED
from xft.reporting.verdict import BASE

MIXING = "weighted_trained"
NOT_EVALUATED = Solution("not evaluated", "", None)
# What a model's label says of swept values: `dense/lam~0.75 (moe_sft.learning_rate 2e-05)`.
SWEPT = re.compile(r"(?P<key>/lam~|[\w.]+ )(?P<value>\d[\d.e+-]*)(?=[,) ]|$)")
MOST = 10  # lines (each has its colour), maps, and models with all solutions: 500 take 40 MB
MOST_PAIRS = 20  # in a chart of differences, and models in an open chart of scores
MOST_MAPS = 2  # that are open
MOST_TICKS = 8
FAR_LOSS = 2  # times the lowest loss
OF_TUNED = ", loss of tuned models"
# The title of an axis, and the format of a value.
SHOWN = {SCORES: ("problems solved, %", ".1f"), LOSSES: (f"{LOSSES.name}, nats per token", ".4f")}
FAR = 3  # The base is far away if a chart of losses would be so many times as long with it.


@dataclass(frozen=True)
class Part:
    """A part of a section: a note, and a verdict, sentences, a chart, a text, or problems.

    answers: of the variants, see `answer_lines`.
    run: the folder with the verdict.
    problems: name, prompt (may be unknown) and solutions of all models, in their order.
    solved: a table of these models and the families of problems.
    is_folded: shown by a click alone.
    """

    title: str = ""
    note: str = ""
    answers: list[tuple[str, Sequence[str]]] = field(default_factory=list)
    run: Folder | None = None
    lines: list[str] = field(default_factory=list)
    chart: dict | None = None
    text: str = ""
    problems: list[tuple[str, str, list[Solution]]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    solved: list[Sequence] = field(default_factory=list)
    is_folded: bool = False


def find_parts(results: Sequence[Folder]) -> dict[str, list[Part]]:
    """The parts of each section of the page about one or more results folders."""
    # Each with the text in front of its names: its folder, if the page shows several.
    runs = [(f"{run.path}: " if len(results) > 1 else "", run) for run in results]

    def collected(name: str, key: str) -> list[dict]:
        """A part of all runs. `key` gets the folder in front, and its values in words."""
        return [
            row | {key: front + in_words(str(row[key]))}
            for front, run in runs
            for row in getattr(run, name)
        ]

    pairs, values = collected("comparisons", "second"), collected("values", "label")
    extra = {row["dataset"] for row in values if row["tests"] == "base"}
    names = dict.fromkeys([*extra, POOLED], f", {TEST_NAMES['plus']}") if extra else {}
    parts = {
        "verdict": [part for front, run in runs for part in _verdict(front, run)],
        "scores": list(_scores(values, names)),
        "cost": [part for front, run in runs for part in _costs(front, run)],
        "differences": [
            *_differences(pairs, "plus", names, 100, "percentage points"),
            *_differences(pairs, LOSS_TESTS, {ROWS: OF_TUNED}, 1, "nats per token"),
        ],
        "training": list(_trainings(collected("curves", "training"))),
        "routing": list(_experts(collected)),
        "problems": [part for front, run in runs for part in _problems(front, run)],
    }
    paint(part.chart for section in parts.values() for part in section if part.chart)
    return parts


def in_words(name: str) -> str:
    """A name in the results folder with its own values in brackets: `sft (seed 43)`."""
    values, rest = re.match(r"((?:[^/]*~[^/]*(?:/|$))*)(.*)", name).groups()
    words = values.strip("/").replace("/", ", ").replace("~", " ")
    return f"{rest} ({words})" if rest and words else rest or words


def _verdict(front: str, run: Folder) -> Iterator[Part]:
    if run.answers:
        yield Part(front.strip(": "), answers=run.answers)
    if run.verdict:
        note = f"{NOT_ASKED} this verdict says it." if run.answers else ""
        yield Part(front.strip(": "), note=note, run=run)
    if run.summary.chosen:
        yield Part(f"{front}the chosen settings", lines=run.summary.chosen)
    if run.statistics:
        yield Part(f"{front}the statistics", lines=run.statistics, is_folded=bool(run.verdict))
    if run.text:
        yield Part(f"{front}the summary as text", text=run.text, is_folded=True)


def _by_quantity(rows: list[dict]) -> Iterator[tuple[Quantity, str, list[dict]]]:
    """What was measured, on which data set, and the rows with the values."""
    for dataset, of_set in _by_dataset([row for row in rows if row["tests"] == "plus"], "value"):
        yield SCORES, dataset, of_set
    for _, of_set in _grouped([row for row in rows if row["tests"] == LOSS_TESTS], "units"):
        yield LOSSES, LOSSES.name, of_set


def _scores(rows: list[dict], names: Mapping[str, str]) -> Iterator[Part]:
    """Charts of the values of models, over the swept keys and by model.

    Those of losses are without the base if it is far away from the others. The scores by the
    original tests alone stand in the table.

    names: of the tests, where a data set has two sets of them.
    """
    for quantity, dataset, of_set in _by_quantity(rows):
        (title, form), note = SHOWN[quantity], ""
        heading = dataset + names.get(dataset, "")
        units = f"{of_set[0]['units']} {quantity.measured_on}s"
        tuned = [row for row in of_set if row["model"] != BASE]
        if quantity is LOSSES and tuned and _span(of_set) > FAR * _span(tuned):
            note = _far(row for row in of_set if row not in tuned)
            of_set = tuned
        for swept, points in _swept(of_set, quantity).items():
            values = sorted({point["x"] for point in points})
            ticks = values[:: ceil(len(values) / MOST_TICKS)]
            words = {"titles": (swept, title), "ticks": ticks, "scale": _scale(values)}
            keys = ("line", "x", "value")
            yield from _lines(f"{heading}, over {swept}", points, keys, note=note, **words)
        is_folded = len({row["label"] for row in of_set}) > MOST_PAIRS
        chart = drawn("scores", of_set, note, title=title, format=form)
        yield Part(f"{heading}, {units}", is_folded=is_folded, **chart)


def _costs(front: str, run: Folder) -> Iterator[Part]:
    """Charts of scores and losses against the FLOPs of all trainings of a model."""
    rows = [row | {"flops": run.flops.get((row["label"], row["seed"]))} for row in run.values]
    for quantity, dataset, of_set in _by_quantity([row for row in rows if row["flops"]]):
        if len({row["flops"] for row in of_set}) > 1:
            most = FAR_LOSS * min(row["value"] for row in of_set)
            far = [row for row in of_set if quantity is LOSSES and row["value"] > most]
            shown = [row for row in of_set if row not in far]
            chart = drawn("cost", shown, _far(far) if far else "", title=SHOWN[quantity][0])
            yield Part(f"{front}{dataset} against FLOPs", **chart)


def _far(rows: Iterable[dict]) -> str:
    names = dict.fromkeys(f"{row['label']} {row['value']:.4f}" for row in rows)
    return f"Not in the chart, because it is far away: {', '.join(names)}."


def _span(rows: Collection[dict]) -> float:
    return max(row["high"] for row in rows) - min(row["low"] for row in rows)


def _scale(values: Sequence[float]) -> str:
    """The scale: logarithmic if the median is nearer to the geometric mean of the ends."""
    low, middle, high = values[0], median(values), values[-1]
    is_log = low > 0 and abs(middle - (low * high) ** 0.5) < abs(middle - (low + high) / 2)
    return f'"type": "{"log" if is_log else "linear"}"'


def _lines(heading: str, rows: list, keys: tuple, is_folded=False, **more) -> Iterator[Part]:
    """A chart of the first lines, if there are any. keys, more: see `charts.lines`."""
    if rows := _first_lines(rows, keys[0]):
        yield Part(heading, is_folded=is_folded, **lines(rows, keys, **more))


def _swept(rows: list[dict], quantity: Quantity) -> dict[str, list[dict]]:
    """By swept key: the rows with their value x and a name of their line, which has no value of it.

    Each model that does not depend on the key is a level line, at all values, and comes first. The
    best lines come next, with low losses or high scores. A key that never changes a line's value is
    left out.
    """
    by_key: dict[str, list[dict]] = {}
    for row in rows:
        for match in SWEPT.finditer(row["label"]):
            key = match["key"].strip() if match["key"] != "/lam~" else "lambda"
            rest = row["label"].replace(match[0], "", 1).replace("()", "").strip()
            by_key.setdefault(key, []).append(row | {"x": float(match["value"]), "line": rest})
    others, charts = [row for row in rows if not SWEPT.search(row["label"])], {}
    for key, points in by_key.items():
        values = {point["x"] for point in points}
        level = [r | {"x": x, "line": r["label"], "level": True} for r in others for x in values]
        if len(values) > 1:
            points.sort(key=itemgetter("value"), reverse=quantity is SCORES)
            charts[key] = [*level, *points]
    return charts


def _first_lines(points: list[dict], key: str) -> list[dict]:
    """The points of the first `MOST` lines, which have the same value of a key, seeds last."""
    kept = sorted(dict.fromkeys(p[key] for p in points), key=lambda name: "seed " in name)[:MOST]
    return [point for name in kept for point in points if point[key] == name]


def _grouped(rows: Iterable[dict], key: str) -> Iterator[tuple[str, list[dict]]]:
    """The rows with equal values of a key, with the value."""
    for value, group in groupby(sorted(rows, key=itemgetter(key)), itemgetter(key)):
        yield value, list(group)


def _by_dataset(rows: Iterable[dict], value: str, *more: float) -> list[tuple[str, list[dict]]]:
    """The rows of each data set. Sets in which all values, and `more`, are equal come last."""
    groups = _grouped(rows, "dataset")
    return sorted(groups, key=lambda group: len({*more, *(row[value] for row in group[1])}) == 1)


def _differences(
    pairs: list, tests: str, names: Mapping[str, str], scale: int, unit: str
) -> Iterator[Part]:
    """Charts of the largest differences. The base's loss is too far away from others.

    names: what follows in the heading, by data set.
    """
    shown = [p for p in pairs if p["tests"] == tests and (tests, p["first"]) != (LOSS_TESTS, BASE)]
    for dataset, rows in _by_dataset(shown, "difference", 0):
        rows.sort(key=lambda row: -abs(row["difference"]))
        largest = [
            {"pair": f"{row['second']} vs {row['first']}"}
            | {key: row[key] for key in ("p_value", "significant")}
            | {
                # Without an interval the ends are the difference.
                key: scale * (row["difference"] if isnan(row[key]) else row[key])
                for key in ("difference", "low", "high")
            }
            for row in shown
            if row in rows[:MOST_PAIRS]
        ]
        heading = dataset + names.get(dataset, "")
        yield Part(heading, **drawn("differences", largest, unit=unit))


def _trainings(curves: list[dict]) -> Iterator[Part]:
    """Charts of the tunings, and of the mixings, whose rates and steps are others."""
    for ending, is_mixing in (("", False), (" of the mixing", True)):
        points = [p for p in curves if (MIXING in p["training"]) == is_mixing]
        rates = [point for point in points if point["learning_rate"] is not None]
        yield from _curves(f"Loss{ending}", points, "smoothed", "loss, nats per token", raw="loss")
        yield from _curves(f"Learning rate{ending}", rates, "learning_rate", "learning rate", True)


def _curves(heading: str, points: list, key: str, title: str, *is_folded, raw="") -> Iterator[Part]:
    """A chart of a value over the optimiser steps, and thinly of another one."""
    keys, titles = ("training", "step", key), ("optimiser step", title)
    yield from _lines(heading, points, keys, *is_folded, titles=titles, raw=raw)


def _experts(collected) -> Iterator[Part]:
    yield from _maps("Load of the experts", collected("loads", "training"), "training", "load")
    routers = collected("routers", "training")
    noisy = [point for point in routers if point["noise_changed"] is not None]
    heading = "Choices that the routers' noise changed"
    yield from _curves("Entropy of the routers", routers, "entropy", "entropy, nats")
    yield from _curves(heading, noisy, "noise_changed", "share of the choices")
    shares = collected("shares", "merge")
    yield from _maps("Learned shares of the experts", shares, "merge", "share")
    spreads = collected("spreads", "mixture"), ("mixture", "layer", "spread")
    yield from _lines("Spread of the experts", *spreads, titles=("layer", "spread, %"))


def _maps(heading: str, cells: list[dict], key: str, value: str) -> Iterator[Part]:
    """A map of layers and experts for each of the first models."""
    maps = [*_grouped(_first_lines(cells, key), key)]
    for name, of_model in maps:
        is_folded, shown = len(maps) > MOST_MAPS, drawn("map", of_model, value=value)
        yield Part(f"{heading}: {name}", is_folded=is_folded, **shown)


def _problems(front: str, run: Folder) -> Iterator[Part]:
    scores = [row for row in run.values if row["tests"] != LOSS_TESTS]
    for dataset, _ in _by_dataset(scores, "value"):
        models = _chosen_models(run.solutions[dataset].values())
        prompts = run.prompts.get(dataset, {})
        shown = [
            (name, prompts.get(name, ""), [written.get(m, NOT_EVALUATED) for m in models])
            for name, written in run.solutions[dataset].items()
        ]
        families = {name: [*rows] for name, rows in groupby(sorted(shown, key=_family), _family)}
        heads = "model", *(f"{name} of {len(rows)}" for name, rows in families.items())
        solutions = ([row[2] for row in rows] for rows in families.values())
        counts = (map(_count_solved, zip(*rows, strict=True)) for rows in solutions)
        has_families = 1 < len(families) <= len(shown) / 2
        solved = [heads, *zip(models, *counts, strict=True)] if has_families else []
        shown.sort(key=lambda problem: _count_solved(problem[2]) in (0, len(models)))
        yield Part(front + dataset, problems=shown, models=models, solved=solved)


def _chosen_models(problems: Iterable[dict[str, Solution]]) -> list[str]:
    """The base, and the models that solve most: `MOST`, in the order of the results."""
    solved: dict[str, int] = {}
    for solutions in problems:
        for model, solution in solutions.items():
            solved[model] = solved.get(model, 0) + (solution.status == PASSED)
    best = sorted(solved, key=lambda model: (model != BASE, -solved[model]))[:MOST]
    return [model for model in solved if model in best]


def _family(problem: tuple) -> str:
    """The beginning of the name that related problems share: `Mbpp` of `Mbpp/2`."""
    return problem[0].partition("/")[0]


def _count_solved(solutions: Iterable[Solution]) -> int:
    return sum(solution.status == PASSED for solution in solutions)
