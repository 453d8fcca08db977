"""Finds out what the report shows: its sections, with charts, tables, texts and problems."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from xft.evaluation.result import TEST_NAMES
from xft.reporting.comparisons import LOSS, solved_rows, verdict
from xft.reporting.page import charts
from xft.reporting.page.folder import Results, Solution

NOT_EVALUATED = Solution("not evaluated", "", None)
LAMBDA = re.compile(r"/lam~([\d.]+)")


@dataclass(frozen=True)
class Problem:
    """A problem with the solutions of all models, in their order. prompt: may be unknown."""

    id: str
    prompt: str
    solutions: list[Solution]


@dataclass(frozen=True)
class Part:
    """A part of a section: sentences, a chart, a table (headings first), a text, or problems."""

    title: str = ""
    lines: list[str] = field(default_factory=list)
    id: str = ""
    chart: dict | None = None
    table: list[Sequence[object]] | None = None
    label: str = ""
    text: str = ""
    problems: list[Problem] = field(default_factory=list)
    models: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """A section of the page. explanation: what its numbers mean, in plain words."""

    id: str
    title: str
    explanation: str
    parts: list[Part]


def find_sections(results: Sequence[Results]) -> Iterator[Section]:
    """The sections of the page about one or more results folders. Some may have no parts."""
    # Each with the text in front of its names: its folder, if the page shows several.
    runs = [(f"{run.folder}: " if len(results) > 1 else "", run) for run in results]

    def collected(name: str, key: str) -> list[dict]:
        """A part of all runs. `key` gets the folder in front."""
        return [
            row | {key: front + str(row[key])} for front, run in runs for row in getattr(run, name)
        ]

    yield Section(
        "verdict",
        "Verdict",
        "Which models differ significantly: at the 5% level, by a paired bootstrap with Holm's "
        "correction for all pairs.",
        [part for front, run in runs for part in _verdict(front, run)],
    )
    yield Section(
        "scores",
        "Problems solved",
        "pass@1: the share of problems that the model's first solution solves. The bar is the 95% "
        "interval of the share: with other problems of the same kind it would rarely lie outside. "
        "Each point is a seed, the red line their mean.",
        list(_scores(collected("scores", "label"))),
    )
    yield Section(
        "differences",
        "Differences between models",
        "Each row compares two models on the same problems or held-out rows. Red: the 95% interval "
        "of the difference, for this row alone, excludes 0. Where it overlaps 0, the data do not "
        "say which model is better.",
        list(_differences(collected("comparisons", "second"))),
    )
    yield Section(
        "training",
        "Trainings",
        "Loss: how surprised the model is by the response tokens, in nats. Lower is better. "
        "Thin lines are single steps, thick lines their moving mean.",
        list(_trainings(collected("curves", "training"))),
    )
    yield Section(
        "routing",
        "Routers and experts",
        "Load: the part of the tokens that a routed expert computes at the end of the tuning; 1 is "
        "an equal part. Entropy: how evenly the router spreads its probabilities, in nats. Shares: "
        "how far the learned share of an expert is from an equal one. Spread: how far the experts "
        "lie apart, in percent of what the tuning changed.",
        list(_experts(collected)),
    )
    yield Section(
        "problems",
        "Problems",
        "Each row is a problem, each column a model (numbered below): ✓ passes base + extra tests. "
        "Unfold a row for the prompt and the solutions. Problems on which the models differ come "
        "first.",
        [part for front, run in runs for part in _problems(front, run)],
    )
    yield Section(
        "run",
        "What was run",
        "The values of the configuration that are not the defaults, the rows that were used and "
        "left out, the versions of the packages, what is missing, and the time and memory of each "
        "job. Memory: the most that a job had, beside what the workflow asked for. Load: 100% is "
        "one core. A job that went on after a kill shows its last part.",
        [part for front, run in runs for part in _facts(front, run)],
    )


def _verdict(front: str, run: Results) -> Iterator[Part]:
    import pandas as pd

    if run.comparisons:
        table = pd.DataFrame(run.comparisons)
        for title, rows in (
            ("problems solved", solved_rows(table)),
            ("loss on the held-out rows", table[table["tests"] == LOSS]),
        ):
            if len(rows):
                yield Part(front + title, lines=verdict(rows))
    if run.summary:
        yield Part(label=f"{front}the summary as text", text=run.summary)


def _scores(scores: list[dict]) -> Iterator[Part]:
    for (dataset, tests), rows in _grouped(scores, "dataset", "tests"):
        title = f"{dataset}, {TEST_NAMES[tests]}, {rows[0]['problems']} problems"
        yield Part(title, id=_id("scores", dataset, tests), chart=charts.scores_chart(rows))
    merges = [
        row | {"lam": float(found[1]), "merge": LAMBDA.sub("", row["label"])}
        for row in scores
        if row["tests"] == "plus" and (found := LAMBDA.search(row["label"]))
    ]
    for (dataset,), rows in _grouped(merges, "dataset"):
        if len({row["lam"] for row in rows}) > 1:
            title = f"{dataset}, {TEST_NAMES['plus']}, over lambda"
            yield Part(title, id=_id("lambda", dataset), chart=charts.lambda_chart(rows))
    if scores:
        heads = ["model", "seed", "data set", "tests", "pass@1, %", "from", "to", "held-out loss"]
        names = ("label", "seed", "dataset", "tests", "share", "low", "high")
        rows = [
            [*(row[name] for name in names), "" if row["loss"] is None else f"{row['loss']:.4f}"]
            for row in scores
        ]
        yield Part("All scores", table=[heads, *rows])


def _grouped(rows: Iterable[dict], *keys: str) -> Iterator[tuple[list, list[dict]]]:
    """The rows with equal values of these keys, with the values."""

    def values(row: dict) -> list:
        return [row[key] for key in keys]

    for found, group in groupby(sorted(rows, key=values), values):
        yield found, list(group)


def _id(*words: str) -> str:
    """An id for HTML and CSS from any words."""
    return "-".join(
        hashlib.sha256(w.encode()).hexdigest()[:8] if not w.isalnum() else w for w in words
    )


def _differences(comparisons: list[dict]) -> Iterator[Part]:
    shown = [row for row in comparisons if row["tests"] != "base"]
    for (dataset, tests), rows in _grouped(shown, "dataset", "tests"):
        losses = tests == LOSS
        scale, unit = (1, "nats a token") if losses else (100, "percentage points")
        drawn = [
            {"pair": f"{row['second']} against {row['first']}", "p_value": row["p_value"]}
            | {key: scale * row[key] for key in ("difference", "low", "high")}
            for row in rows
        ]
        yield Part(
            "Loss on the held-out rows" if losses else f"{dataset}, {TEST_NAMES[tests]}",
            id=_id("differences", dataset),
            chart=charts.differences_chart(drawn, f"difference, {unit}"),
        )


def _trainings(curves: list[dict]) -> Iterator[Part]:
    if curves:
        chart = charts.curves_chart(curves, "smoothed", "loss, nats a token", raw="loss")
        yield Part("Loss", id="loss-curves", chart=chart)
    rates = [point for point in curves if point["learning_rate"] is not None]
    if rates:
        chart = charts.curves_chart(rates, "learning_rate", "learning rate")
        yield Part("Learning rate", id="learning-rates", chart=chart)


def _experts(collected) -> Iterator[Part]:
    for (name,), cells in _grouped(collected("loads", "training"), "training"):
        chart = charts.map_chart(cells, "layer", "load", 1)
        yield Part(f"Load of the experts: {name}", id=_id("load", name), chart=chart)
    routers = collected("routers", "training")
    if routers:
        chart = charts.curves_chart(routers, "entropy", "entropy, nats")
        yield Part("Entropy of the routers", id="entropy", chart=chart)
    noisy = [point for point in routers if point["noise_changed"] is not None]
    if noisy:
        chart = charts.curves_chart(noisy, "noise_changed", "part of the choices")
        yield Part("Choices that the routers' noise changed", id="noise", chart=chart)
    for (name,), cells in _grouped(collected("shares", "merge"), "merge"):
        chart = charts.map_chart(cells, "set", "deviation", 0)
        yield Part(
            f"Learned shares above equal ones: {name}", id=_id("deviation", name), chart=chart
        )
    if spreads := collected("spreads", "mixture"):
        yield Part("Spread of the experts", id="spread", chart=charts.spread_chart(spreads))


def _problems(front: str, run: Results) -> Iterator[Part]:
    for dataset, problems in run.solutions.items():
        models = list(dict.fromkeys(model for found in problems.values() for model in found))
        prompts = run.prompts.get(dataset, {})
        shown = [
            Problem(name, prompts.get(name, ""), [found.get(m, NOT_EVALUATED) for m in models])
            for name, found in sorted(problems.items(), key=lambda item: not _differ(item[1]))
        ]
        yield Part(front + dataset, problems=shown, models=models)


def _differ(solutions: dict[str, Solution]) -> bool:
    return len({solution.status == "passed" for solution in solutions.values()}) > 1


def _facts(front: str, run: Results) -> Iterator[Part]:
    tables = {
        "missing": (["what is missing"], [[sentence] for sentence in run.missing]),
        "chosen values": (["key", "value"], [[k, json.dumps(v)] for k, v in run.chosen.items()]),
        "rows": (
            ["rows of", "used", "held out", "left out"],
            [[name, r["training"], r["validation"], _left_out(r)] for name, r in run.rows.items()],
        ),
        "versions": (["package", "version"], list(run.versions.items())),
        "jobs": (
            ["job", "seconds", "memory, MB", "asked, MB", "at most, minutes", "load, %"],
            [[job["job"], f"{job['seconds']:.1f}", *_rounded(job)] for job in run.jobs],
        ),
    }
    for title, (heads, rows) in tables.items():
        if rows:
            yield Part(front + title, table=[heads, *rows])
    if run.config:
        yield Part(label=f"{front}the complete configuration", text=run.config)


def _rounded(job: dict) -> Iterator[str]:
    for key in ("memory", "asked", "minutes", "load"):
        yield "" if job[key] is None else f"{job[key]:,.0f}"


def _left_out(report: dict) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in report["removed"].items()) or "none"
