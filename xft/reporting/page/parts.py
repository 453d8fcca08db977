"""Finds out what the sections of the report show: charts, tables, texts and problems."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from math import isnan
from operator import itemgetter

from xft.evaluation.result import TEST_NAMES
from xft.evaluation.scoring import PASSED
from xft.reporting.comparisons import LOSSES, OF_SWEEP, POOLED, SCORES, Quantity
from xft.reporting.names import path_text
from xft.reporting.page.charts import drawn, lines, number_axis, paint
from xft.reporting.page.folder import Folder, Solution, Trainings
from xft.reporting.page.part import FAR, MOST, SHOWN, Part, span
from xft.reporting.page.sweep import sweep_parts
from xft.reporting.run_table import LOSS_TESTS, ROWS
from xft.reporting.verdict import BASE

MIXING = "weighted_trained"
NOT_EVALUATED = Solution("not evaluated", "", None)
MOST_PAIRS = 20  # in a chart of differences, and models in an open chart of scores
MOST_MAPS = 2  # that are open
FAR_LOSS = 2  # times the lowest loss
OF_TUNED = ", loss of tuned models"


def find_parts(results: Sequence[Folder]) -> dict[str, list[Part]]:
    """The parts of each section of the page about one or more results folders."""
    # Each with the text in front of its names: its folder, if the page shows several.
    runs = [(f"{run.path}: " if len(results) > 1 else "", run) for run in results]

    pairs = [
        row | {"second": f"{front}{row['second']}"}
        for front, run in runs
        for row in run.results.comparisons
    ]
    values = [
        row | {key: f"{front}{row[key]}" for key in ("label", "line")}
        for front, run in runs
        for row in run.results.values
    ]
    curves = _by_path([(front, run.trainings.curves) for front, run in runs], "training")
    extra = {row["dataset"] for row in values if row["tests"] == "base"}
    names = dict.fromkeys([*extra, POOLED], f", {TEST_NAMES['plus']}") if extra else {}
    parts = {
        "verdict": [part for front, run in runs for part in _verdict(front, run)],
        "sweep": [part for front, run in runs for part in sweep_parts(front, run)],
        "scores": list(_scores(values, names)),
        "cost": [part for front, run in runs for part in _costs(front, run)],
        "differences": [
            *_differences(pairs, "plus", names, 100, "percentage points"),
            *_differences(pairs, LOSS_TESTS, {ROWS: OF_TUNED}, 1, "nats per token"),
        ],
        "training": list(_trainings(curves)),
        "routing": list(_experts([(front, run.trainings) for front, run in runs])),
        "problems": [part for front, run in runs for part in _problems(front, run)],
    }
    paint(part.chart for section in parts.values() for part in section if part.chart)
    return parts


def _by_path(runs: Iterable[tuple[str, Iterable[dict]]], key: str) -> list[dict]:
    """The rows of all runs. The path at this key gets its words, and the text in front of them."""
    return [row | {key: front + path_text(str(row[key]))} for front, rows in runs for row in rows]


def _verdict(front: str, run: Folder) -> Iterator[Part]:
    said = run.results.conclusions
    if said:
        if said.answers:
            yield Part(front.strip(": "), answers=said.answers)
        if said.verdict:
            note = f"{said.not_asked} this verdict says it." if said.not_asked else ""
            yield Part(front.strip(": "), note=note, run=run)
        if said.settings:
            yield Part(f"{front}the chosen settings", lines=said.settings)
        if said.statistics:
            is_folded = said.verdict is not None
            yield Part(f"{front}the statistics", lines=said.statistics, is_folded=is_folded)
    text = run.results.text
    if text:
        yield Part(f"{front}the summary as text", text=text, is_folded=True)


def _by_quantity(rows: list[dict]) -> Iterator[tuple[Quantity, str, list[dict]]]:
    """The quantities, each with a data set, or its own name, and the rows with the values."""
    for dataset, of_set in _by_dataset([row for row in rows if row["tests"] == "plus"], "value"):
        yield SCORES, dataset, of_set
    for _, of_set in _grouped([row for row in rows if row["tests"] == LOSS_TESTS], "units"):
        yield LOSSES, LOSSES.name, of_set


def _scores(rows: list[dict], names: Mapping[str, str]) -> Iterator[Part]:
    """Charts of the values of models, over lambda and by model.

    Those of losses are without the base if it is far away from the others. The scores by the
    original tests alone stand in the table.

    names: of the tests, where a data set has two sets of them.
    """
    for quantity, dataset, of_set in _by_quantity(rows):
        title, form = SHOWN[quantity]
        note = ""
        heading = dataset + names.get(dataset, "")
        units = f"{of_set[0]['units']} {quantity.measured_on}s"
        tuned = [row for row in of_set if row["model"] != BASE]
        if quantity is LOSSES and tuned and span(of_set) > FAR * span(tuned):
            note = _far(row for row in of_set if row not in tuned)
            of_set = tuned
        if points := _over_lambda(of_set, quantity):
            axis = number_axis([point["x"] for point in points])
            keys, words = ("line", "x", "value"), {"titles": ("lambda", title), **axis}
            yield from _lines(f"{heading}, over lambda", points, keys, note=note, **words)
        is_folded = len({row["label"] for row in of_set}) > MOST_PAIRS
        chart = drawn("scores", of_set, note, title=title, format=form)
        yield Part(f"{heading}, {units}", is_folded=is_folded, **chart)


def _costs(front: str, run: Folder) -> Iterator[Part]:
    """Charts of scores and losses against the FLOPs of all trainings of a model."""
    flops = run.costs.flops
    rows = [row | {"flops": flops.get((row["label"], row["seed"]))} for row in run.results.values]
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


def _lines(heading: str, rows: list, keys: tuple, is_folded=False, **more) -> Iterator[Part]:
    """A chart of the first lines, if there are any. keys, more: see `charts.lines`."""
    if rows := _first_lines(rows, keys[0]):
        yield Part(heading, is_folded=is_folded, **lines(rows, keys, **more))


def _over_lambda(rows: list[dict], quantity: Quantity) -> list[dict]:
    """The rows of merged models, with lambda x; none if all have one.

    Each model without lambda and swept values is a level line, at all values, and comes first. The
    best lines come next, with low losses or high scores.
    """
    merged = [row | {"x": row["lambda"]} for row in rows if row["lambda"] is not None]
    values = {row["x"] for row in merged}
    if len(values) < 2:
        return []
    others = [row for row in rows if row["lambda"] is None and not row["is_swept"]]
    level = [row | {"x": x, "level": True} for row in others for x in values]
    merged.sort(key=itemgetter("value"), reverse=quantity is SCORES)
    return [*level, *merged]


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
    """Charts of the largest differences, but for those between values of a sweep. The base's loss
    is too far away from others.

    names: what follows in the heading, by data set.
    """
    shown = [
        pair
        for pair in pairs
        if pair["tests"] == tests
        and (tests, pair["first"]) != (LOSS_TESTS, BASE)
        and pair["question"] != OF_SWEEP
    ]
    for dataset, rows in _by_dataset(shown, "difference", 0):
        rows.sort(key=lambda row: -abs(row["difference"]))
        largest = rows[:MOST_PAIRS]
        bars = [_difference_bar(row, scale) for row in shown if row in largest]
        heading = dataset + names.get(dataset, "")
        yield Part(heading, **drawn("differences", bars, unit=unit))


def _difference_bar(row: Mapping, scale: int) -> dict:
    """A row of the chart of differences. Without an interval its ends are the difference."""
    bar = {"pair": f"{row['second']} vs {row['first']}"}
    for key in ("p_value", "significant"):
        bar[key] = row[key]
    for key in ("difference", "low", "high"):
        bar[key] = scale * (row["difference"] if isnan(row[key]) else row[key])
    return bar


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


def _experts(runs: Sequence[tuple[str, Trainings]]) -> Iterator[Part]:
    """Charts of loads, routers, shares and spreads. runs: with the text in front of the names."""
    loads = _by_path([(front, run.loads) for front, run in runs], "training")
    yield from _maps("Load of the experts", loads, "training", "load")
    routers = _by_path([(front, run.routers) for front, run in runs], "training")
    noisy = [point for point in routers if point["noise_changed"] is not None]
    heading = "Choices that the routers' noise changed"
    yield from _curves("Entropy of the routers", routers, "entropy", "entropy, nats")
    yield from _curves(heading, noisy, "noise_changed", "share of the choices")
    shares = _by_path([(front, run.shares) for front, run in runs], "merge")
    yield from _maps("Learned shares of the experts", shares, "merge", "share")
    spreads = _by_path([(front, run.spreads) for front, run in runs], "mixture")
    keys, titles = ("mixture", "layer", "spread"), ("layer", "spread, %")
    yield from _lines("Spread of the experts", spreads, keys, titles=titles)


def _maps(heading: str, cells: list[dict], key: str, value: str) -> Iterator[Part]:
    """A map of layers and experts for each of the first models."""
    maps = [*_grouped(_first_lines(cells, key), key)]
    for name, of_model in maps:
        chart = drawn("map", of_model, value=value)
        yield Part(f"{heading}: {name}", is_folded=len(maps) > MOST_MAPS, **chart)


def _problems(front: str, run: Folder) -> Iterator[Part]:
    results = run.results
    scores = [row for row in results.values if row["tests"] != LOSS_TESTS]
    for dataset, _ in _by_dataset(scores, "value"):
        models = _chosen_models(results.solutions[dataset].values())
        prompts = results.prompts.get(dataset, {})
        shown = [
            (name, prompts.get(name, ""), [written.get(m, NOT_EVALUATED) for m in models])
            for name, written in results.solutions[dataset].items()
        ]
        families = {name: [*rows] for name, rows in groupby(sorted(shown, key=_family), _family)}
        has_families = 1 < len(families) <= len(shown) / 2
        solved = _solved_by_family(families, models) if has_families else []
        shown.sort(key=lambda problem: _count_solved(problem[2]) in (0, len(models)))
        yield Part(front + dataset, problems=shown, models=models, solved=solved)


def _solved_by_family(families: Mapping[str, list[tuple]], models: list[str]) -> list[tuple]:
    """A table of the number of problems that each model solves, by family.

    families: the problems of each, as in `Part.problems`.
    """
    heads = "model", *(f"{name} of {len(problems)}" for name, problems in families.items())
    table = [heads]
    for place, model in enumerate(models):
        counts = []
        for problems in families.values():
            counts.append(_count_solved(solutions[place] for _, _, solutions in problems))
        table.append((model, *counts))
    return table


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
