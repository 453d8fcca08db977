"""Finds out what the sections of the report show: charts, tables, texts and problems."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from operator import itemgetter

from xft.evaluation.judging import PASSED
from xft.evaluation.result import TEST_NAMES
from xft.reporting.comparisons import LOSS
from xft.reporting.page.charts import chart
from xft.reporting.page.folder import Results, Solution
from xft.reporting.summary import verdict_in
from xft.reporting.verdict import BASE

MIXING = "weighted_trained"
NOT_EVALUATED = Solution("not evaluated", "", None)
# What a model's label says of swept values: `dense/lam~0.75 (moe_sft.learning_rate 2e-05)`.
SWEPT = re.compile(r"(?P<key>/lam~|[\w.]+ )(?P<value>\d[\d.e+-]*)(?=[,) ]|$)")
MOST = 12  # lines in a chart, and models with all solutions: those of 100 by 5 seeds take 40 MB
MOST_PAIRS = 40  # in a chart of differences
NUMBER = re.compile(r"([-+]?\d[\d,]*(\.\d+)?)?")


@dataclass(frozen=True)
class Part:
    """A part of a section: sentences, a chart, a table (headings first), a text, or problems.

    problems: name, prompt (may be unknown) and solutions of all models, in their order.
    """

    title: str = ""
    lines: list[str] = field(default_factory=list)
    chart: dict | None = None
    table: list[Sequence[object]] = field(default_factory=list)
    text: str = ""
    problems: list[tuple[str, str, list[Solution]]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)

    @cached_property
    def numeric(self) -> list[bool]:
        """Of each column of the table, whether it holds numbers."""
        columns = zip(*self.table[1:], strict=True)
        return [all(NUMBER.fullmatch(str(cell)) for cell in column) for column in columns]


def find_parts(results: Sequence[Results]) -> dict[str, list[Part]]:
    """The parts of each section of the page about one or more results folders."""
    # Each with the text in front of its names: its folder, if the page shows several.
    runs = [(f"{run.folder}: " if len(results) > 1 else "", run) for run in results]

    def collected(name: str, key: str) -> list[dict]:
        """A part of all runs. `key` gets the folder in front."""
        return [
            row | {key: front + str(row[key])} for front, run in runs for row in getattr(run, name)
        ]

    return {
        "verdict": [part for front, run in runs for part in _verdict(front, run)],
        "scores": [
            *_scores(collected("scores", "label")),
            *_losses(collected("comparisons", "second")),
            *(part for front, run in runs for part in _costs(front, run)),
        ],
        "differences": [
            *_differences(collected("comparisons", "second")),
            *_all_scores(collected("scores", "label")),
        ],
        "training": list(_trainings(collected("curves", "training"))),
        "routing": list(_experts(collected)),
        "problems": [part for front, run in runs for part in _problems(front, run)],
        "run": [part for front, run in runs for part in _facts(front, run)],
    }


def _verdict(front: str, run: Results) -> Iterator[Part]:
    if lines := verdict_in(run.summary):
        yield Part(front.strip(": "), lines=lines)
    if run.summary:
        yield Part(f"{front}the summary as text", text=run.summary)


def _scores(scores: list[dict]) -> Iterator[Part]:
    """Charts of pass@1. The scores by the original tests stand in the table."""
    scores = [row for row in scores if row["tests"] == "plus"]
    for dataset, rows in _grouped(scores, "dataset"):
        title = f"{dataset}, {TEST_NAMES['plus']}, {rows[0]['problems']} problems"
        for key, points in _swept(rows).items():
            about = f"{dataset}, {TEST_NAMES['plus']}, over {key}"
            yield Part(about, chart=chart("sweep", points, key=key))
        yield Part(title, chart=chart("scores", rows))


def _swept(scores: list[dict]) -> dict[str, list[dict]]:
    """By swept key: the scores with its value x and a name of their line, which has no value of it.

    Each model that does not depend on the key is a line too, at all values. A key that never
    changes a line's value gives no chart.
    """
    found: dict[str, list[dict]] = {}
    for row in scores:
        for match in SWEPT.finditer(row["label"]):
            key = match["key"].strip() if match["key"] != "/lam~" else "lambda"
            rest = row["label"].replace(match[0], "", 1).replace("()", "").strip()
            found.setdefault(key, []).append(row | {"x": float(match["value"]), "line": rest})
    others, charts = [row for row in scores if not SWEPT.search(row["label"])], {}
    for key, points in found.items():
        values = sorted({point["x"] for point in points})
        level = [row | {"x": x, "line": row["label"]} for row in others for x in values]
        if len(values) > 1:
            charts[key] = _first_lines([*level, *points], "line")
    return charts


def _first_lines(points: list[dict], key: str) -> list[dict]:
    """The points of the first `MOST` lines, which have the same value of a key."""
    kept = [*dict.fromkeys(point[key] for point in points)][:MOST]
    return [point for point in points if point[key] in kept]


def _losses(comparisons: list[dict]) -> Iterator[Part]:
    """A chart of tuned models: the loss of the base is too far away."""
    losses = [row for row in comparisons if row["tests"] == LOSS and row["first"] != BASE]
    if losses:
        drawn = _difference_chart(losses, 1, "nats per token")
        yield Part("Differences of the held-out loss between tuned models", chart=drawn)


def _costs(front: str, run: Results) -> Iterator[Part]:
    trainings = {point["training"] for point in run.curves}
    rows = [
        (_in_parts(job), f"{job['seconds'] / 60:,.1f}", _rounded(job["memory"]))
        for job in run.jobs
        if job["job"] in trainings
    ]
    if rows:
        heads = ("training", "minutes", "memory, MB")
        yield Part(f"{front}Cost of the trainings", table=[heads, *rows])


def _all_scores(scores: list[dict]) -> Iterator[Part]:
    columns = {
        "model": [row["label"] for row in scores],
        "seed": [row["seed"] for row in scores],
        "data set": [row["dataset"] for row in scores],
        "tests": [TEST_NAMES[row["tests"]] for row in scores],
        "pass@1, %": [f"{row['share']:.1f}" for row in scores],
        "from": [f"{row['low']:.1f}" for row in scores],
        "to": [f"{row['high']:.1f}" for row in scores],
        "held-out loss": ["" if row["loss"] is None else f"{row['loss']:.4f}" for row in scores],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    if shown:
        yield Part("All scores", table=[list(shown), *zip(*shown.values(), strict=True)])


def _grouped(rows: Iterable[dict], key: str) -> Iterator[tuple[str, list[dict]]]:
    """The rows with equal values of a key, with the value."""
    for value, group in groupby(sorted(rows, key=itemgetter(key)), itemgetter(key)):
        yield value, list(group)


def _differences(comparisons: list[dict]) -> Iterator[Part]:
    scores = [row for row in comparisons if row["tests"] == "plus"]
    for dataset, rows in _grouped(scores, "dataset"):
        title = f"{dataset}, {TEST_NAMES['plus']}"
        yield Part(title, chart=_difference_chart(rows, 100, "percentage points"))


def _difference_chart(rows: list[dict], scale: int, unit: str) -> dict:
    largest = sorted(rows, key=lambda row: abs(row["difference"]), reverse=True)[:MOST_PAIRS]
    drawn = [
        {"pair": f"{row['second']} vs {row['first']}"}
        | {key: row[key] for key in ("p_value", "significant")}
        | {key: scale * row[key] for key in ("difference", "low", "high")}
        for row in rows
        if row in largest
    ]
    return chart("differences", drawn, unit=unit)


def _trainings(curves: list[dict]) -> Iterator[Part]:
    """Charts of the tunings, and of the mixings, whose rates and steps are others."""
    for about, is_mixing in (("", False), (" of the mixing", True)):
        points = [p for p in curves if (MIXING in p["training"]) == is_mixing]
        rates = [point for point in points if point["learning_rate"] is not None]
        yield from _curves(f"Loss{about}", points, "smoothed", "loss, nats per token", raw="loss")
        yield from _curves(f"Learning rate{about}", rates, "learning_rate", "learning rate")


def _curves(
    heading: str, points: list[dict], key: str, title: str, raw: str = ""
) -> Iterator[Part]:
    """A chart of a value over the optimiser steps, if there are points, and faintly of another."""
    if points:
        points.sort(key=lambda point: "seed~" in point["training"])
        points = _first_lines(points, "training")
        drawn = [point | {"value": point[key], "raw": point[raw or key]} for point in points]
        yield Part(heading, chart=chart("curves", drawn, title=title))


def _experts(collected) -> Iterator[Part]:
    for name, cells in _grouped(collected("loads", "training"), "training"):
        drawn = chart("map", cells, row="layer", value="load")
        yield Part(f"Load of the experts: {name}", chart=drawn)
    routers = collected("routers", "training")
    noisy = [point for point in routers if point["noise_changed"] is not None]
    heading = "Choices that the routers' noise changed"
    yield from _curves("Entropy of the routers", routers, "entropy", "entropy, nats")
    yield from _curves(heading, noisy, "noise_changed", "share of the choices")
    for name, cells in _grouped(collected("shares", "merge"), "merge"):
        drawn = chart("map", cells, row="set", value="share")
        yield Part(f"Learned shares of the experts: {name}", chart=drawn)
    if spreads := collected("spreads", "mixture"):
        yield Part("Spread of the experts", chart=chart("spread", spreads))


def _problems(front: str, run: Results) -> Iterator[Part]:
    for dataset, problems in run.solutions.items():
        models = _chosen_models(problems.values())
        prompts = run.prompts.get(dataset, {})
        shown = [
            (name, prompts.get(name, ""), [found.get(m, NOT_EVALUATED) for m in models])
            for name, found in problems.items()
        ]
        families = [
            (family, str(len(rows)), *(map(_count_solved, zip(*rows, strict=True))))
            for family, rows in _families(shown).items()
        ]
        if len(families) > 1:
            heads = ("family", "problems", *models)
            yield Part(f"{front}{dataset}, solved of each family", table=[heads, *families])
        shown.sort(key=lambda problem: _count_solved(problem[2]) in (0, len(models)))
        yield Part(front + dataset, problems=shown, models=models)


def _chosen_models(problems: Iterable[dict[str, Solution]]) -> list[str]:
    """The base, and the models that solve most: `MOST`, in the order of the results."""
    solved: dict[str, int] = {}
    for found in problems:
        for model, solution in found.items():
            solved[model] = solved.get(model, 0) + (solution.status == PASSED)
    best = sorted(solved, key=lambda model: (model != BASE, -solved[model]))[:MOST]
    return [model for model in solved if model in best]


def _families(problems: Iterable[tuple]) -> dict[str, list[list[Solution]]]:
    """The solutions of the problems whose names begin alike, as `Mbpp` of `Mbpp/2`."""
    families: dict[str, list[list[Solution]]] = {}
    for name, _, solutions in problems:
        families.setdefault(name.partition("/")[0], []).append(solutions)
    return families


def _count_solved(solutions: Iterable[Solution]) -> int:
    return sum(solution.status == PASSED for solution in solutions)


def _facts(front: str, run: Results) -> Iterator[Part]:
    jobs = ("seconds", "memory", "asked", "minutes", "load")
    tables = {
        "missing": (["missing"], [[sentence] for sentence in run.missing]),
        "chosen values": (["key", "value"], [[k, json.dumps(v)] for k, v in run.chosen.items()]),
        "rows": (
            ["values", "used", "held out", "left out"],
            [[name, r["training"], r["validation"], _left_out(r)] for name, r in run.rows.items()],
        ),
        "versions": (["package", "version"], list(run.versions.items())),
        "jobs": (
            ["job", "seconds", "memory, MB", "requested, MB", "time limit, minutes", "CPU load, %"],
            [[_in_parts(job), *(_rounded(job[key]) for key in jobs)] for job in run.jobs],
        ),
    }
    for title, (heads, rows) in tables.items():
        if rows:
            yield Part(front + title, table=[heads, *rows])
    if run.config:
        yield Part(f"{front}the complete configuration", text=run.config)


def _in_parts(job: dict) -> str:
    """The name of a job, with the number of its attempts if there were several."""
    return job["job"] + f" (in {job['parts']} parts)" * (job["parts"] > 1)


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _left_out(report: dict) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in report["removed"].items()) or "none"
