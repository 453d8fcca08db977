"""Finds out what the report shows: its sections, with charts, tables, texts and problems."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter

from xft.reporting.page import charts
from xft.reporting.page.folder import Results, Solution, columns_of
from xft.reporting.page.jobs import layout
from xft.reporting.page.means import Mean, find_means

# Limits that keep the report below 5 MB. The results hold everything.
MOST_MAPS = 12
MOST_PROBLEMS = 400  # of a data set, those on which models differ first
MOST_CELLS = 6_000  # solutions in the table of problems
MOST_TEXT = 800_000  # characters of all solutions
NOT_EVALUATED = Solution("not evaluated", "", None)
OVER_LAMBDA = re.compile(r"(?P<kind>.*\b(?:dense|uniform|heal))/lam~(?P<lam>[\d.]+)(?P<variant>.*)")
LOAD, SHARES = "Load of the experts", "Learned shares above equal ones"
TESTS = {"base": "base tests", "plus": "base + extra tests"}


@dataclass(frozen=True)
class Problem:
    """A problem with the solutions of all models, in their order. prompt: may be unknown."""

    id: str
    prompt: str
    solutions: list[Solution]


@dataclass(frozen=True)
class Part:
    """A part of a section: a chart, a table (headings first), a text to unfold, or problems.

    means: rows of the table that unfold to runs. target: the id of the part that runs link to.
    """

    title: str = ""
    note: str = ""
    id: str = ""
    chart: dict | None = None
    table: list[Sequence[object]] | None = None
    label: str = ""
    text: str = ""
    problems: list[Problem] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    means: list[Mean] = field(default_factory=list)
    target: str = ""


@dataclass(frozen=True)
class Section:
    """A section of the page. explanation: what its numbers mean, in plain words."""

    id: str
    title: str
    explanation: str
    parts: list[Part]


def find_sections(runs: Sequence[Results]) -> Iterator[Section]:
    """The sections of the page about one or more results folders. Some may have no parts."""
    several = len(runs) > 1

    def collected(name: str, key: str = "") -> list[dict]:
        """A part of all runs. With several runs, `key` gets the folder in front."""
        rows = []
        for run in runs:
            front = _front(run, several)
            rows += [
                row | ({key: front + str(row[key])} if key else {}) for row in getattr(run, name)
            ]
        return rows

    yield Section(
        "scores",
        "Problems solved",
        "pass@1: the share of problems that the model's first solution solves. The bar is the 95% "
        "interval of the share: with other problems of the same kind it would rarely lie outside. "
        "Each point is a seed, the red line their mean.",
        list(_scores(collected("scores", "label"), runs, several)),
    )
    yield Section(
        "differences",
        "Differences between models",
        "Each row compares two models on the same problems. Red: the 95% interval of the "
        "difference, for this row alone, does not hold 0. Where it holds 0, the data do not say "
        "which model is better. The summary below corrects for the number of comparisons.",
        list(_differences(runs, several)),
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
        list(_problems(runs, several)),
    )
    yield Section(
        "jobs",
        "Time, memory and disk",
        "Each box is a step, with the time of its jobs together; lines lead to the steps that read "
        "its result. Memory: the most that a job had, beside what the workflow asked for. Planned: "
        "the most that the plan computes for a training on a CPU, if every row fills the window. "
        "Load: 100% is one core. A job that went on after a kill shows its last part.",
        list(_jobs(runs, several)),
    )
    yield Section(
        "run",
        "What was run",
        "The values of the configuration that are not the defaults, the rows that were used and "
        "left out, the versions of the packages, and what is missing.",
        list(_facts(runs, several)),
    )


def _front(run: Results, several: bool) -> str:
    """The text in front of names of a run: its folder, if the page shows several runs."""
    return f"{run.folder}: " if several else ""


def _scores(scores: list[dict], runs: Sequence[Results], several: bool) -> Iterator[Part]:
    keys = ("dataset", "tests")
    ordered = sorted(scores, key=lambda row: [row[key] for key in keys])
    for (dataset, tests), rows in groupby(ordered, key=lambda row: [row[key] for key in keys]):
        rows = list(rows)
        names = list(dict.fromkeys(row["label"] for row in rows))
        drawn = {*names[: charts.MOST_ROWS]}
        yield Part(
            f"{dataset}, {TESTS[tests]}, {rows[0]['problems']} problems",
            note=_left_over(len(names) - len(drawn), "models", "the table below"),
            id=_id("scores", dataset, tests),
            chart=charts.scores_chart([row for row in rows if row["label"] in drawn]),
        )
    yield from _lambdas(scores)
    yield from _means(runs, several)
    if scores:
        heads = ["model", "seed", "data set", "tests", "pass@1, %", "from", "to", "held-out loss"]
        names = ("label", "seed", "dataset", "tests", "share", "low", "high")
        rows = [
            [*(row[name] for name in names), "" if row["loss"] is None else f"{row['loss']:.4f}"]
            for row in scores
        ]
        yield Part("All scores", table=[heads, *rows])


def _means(runs: Sequence[Results], several: bool) -> Iterator[Part]:
    for run in runs:
        for found in find_means(run):
            yield Part(
                f"{_front(run, several)}{found.dataset}, means over the seeds",
                note="Mean ± standard deviation between the seeds, which leaves out the chance of "
                f"the {found.problems} problems. Unfold a model for its runs, each with the 95% "
                "interval of its share, and a link to its column in the table of solutions.",
                table=[found.headings],
                means=found.rows,
                target=_problems_id(run, found.dataset),
            )


def _problems_id(run: Results, dataset: str) -> str:
    return _id("solutions", str(run.folder), dataset)


def _lambdas(scores: list[dict]) -> Iterator[Part]:
    """The scores of merges over lambda, if there are several lambdas."""
    rows = [
        row | {"lam": float(found["lam"]), "merge": found["kind"] + found["variant"]}
        for row in scores
        if (found := OVER_LAMBDA.fullmatch(row["label"])) and row["tests"] == "plus"
    ]
    for dataset, group in groupby(sorted(rows, key=itemgetter("dataset")), itemgetter("dataset")):
        drawn = list(group)
        if len({row["lam"] for row in drawn}) > 1:
            title = f"{dataset}, {TESTS['plus']}, over lambda"
            yield Part(title, id=_id("lambda", dataset), chart=charts.lambda_chart(drawn))


def _left_over(count: int, what: str, where: str) -> str:
    return f"{count} more {what} are in {where}." if count > 0 else ""


def _id(*words: str) -> str:
    """An id for HTML and CSS from any words."""
    return "-".join(
        hashlib.sha256(w.encode()).hexdigest()[:8] if not w.isalnum() else w for w in words
    )


def _differences(runs: Sequence[Results], several: bool) -> Iterator[Part]:
    rows = []
    for run in runs:
        front = _front(run, several)
        for row in run.comparisons:
            pair = f"{front}{row['second']} against {row['first']}"
            rows.append(row | {"pair": pair})
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        here = [
            row for row in rows if row["dataset"] == dataset and row["tests"] in ("plus", "loss")
        ]
        losses = here and here[0]["tests"] == "loss"
        scale, unit = (1, "nats a token") if losses else (100, "percentage points")
        keys = ("difference", "low", "high")
        shown = [
            {"pair": row["pair"], "p_value": row["p_value"]}
            | {key: scale * row[key] for key in keys}
            for row in here
        ]
        if shown:
            yield Part(
                "Loss on the held-out rows" if losses else f"{dataset}, {TESTS['plus']}",
                note=_left_over(len(shown) - charts.MOST_ROWS, "pairs", "comparisons.csv"),
                id=_id("differences", dataset),
                chart=charts.differences_chart(shown, f"difference, {unit}"),
            )
    for run in runs:
        if run.summary:
            yield Part(label=f"The summary of {run.folder} as text", text=run.summary)


def _trainings(curves: list[dict]) -> Iterator[Part]:
    if curves:
        chart = charts.curves_chart(curves, "smoothed", "loss, nats a token", raw="loss")
        yield Part("Loss", id="loss-curves", chart=chart)
    rates = [point for point in curves if point["learning_rate"] is not None]
    if rates:
        chart = charts.curves_chart(rates, "learning_rate", "learning rate")
        yield Part("Learning rate", id="learning-rates", chart=chart)


def _experts(collected) -> Iterator[Part]:
    yield from _maps(collected("loads", "training"), "training", "layer", "load", 1, LOAD)
    routers = collected("routers", "training")
    if routers:
        chart = charts.curves_chart(routers, "entropy", "entropy, nats")
        yield Part("Entropy of the routers", id="entropy", chart=chart)
    noisy = [point for point in routers if point["noise_changed"] is not None]
    if noisy:
        chart = charts.curves_chart(noisy, "noise_changed", "part of the choices")
        yield Part("Choices that the routers' noise changed", id="noise", chart=chart)
    yield from _maps(collected("shares", "merge"), "merge", "set", "deviation", 0, SHARES)
    if spreads := collected("spreads", "mixture"):
        yield Part("Spread of the experts", id="spread", chart=charts.spread_chart(spreads))


def _maps(
    cells: list[dict], of: str, row: str, value: str, middle: float, title: str
) -> Iterator[Part]:
    """A heat map of experts for each training or merge."""
    names = list(dict.fromkeys(cell[of] for cell in cells))
    for name in names[:MOST_MAPS]:
        here = [cell for cell in cells if cell[of] == name]
        chart = charts.map_chart(here, row, "expert", value, middle)
        yield Part(f"{title}: {name}", id=_id(value, name), chart=chart)
    if note := _left_over(len(names) - MOST_MAPS, "of them", "the metrics"):
        yield Part(note=note)


def _problems(runs: Sequence[Results], several: bool) -> Iterator[Part]:
    left = MOST_TEXT
    for run in runs:
        for dataset, problems in run.solutions.items():
            models = columns_of(problems)
            names = sorted(problems, key=lambda name: not _differ(problems[name].values()))
            shown = []
            for name in names[: min(MOST_PROBLEMS, MOST_CELLS // len(models))]:
                solutions = [problems[name].get(model, NOT_EVALUATED) for model in models]
                prompt = run.prompts.get(dataset, {}).get(name, "")
                left -= len(prompt) + sum(len(solution.code) for solution in solutions)
                if left < 0:
                    prompt = ""
                    solutions = [replace(solution, code="") for solution in solutions]
                shown.append(Problem(name, prompt, solutions))
            notes = [_left_over(len(names) - len(shown), "problems", "the results of step eval")]
            if left < 0:
                notes.append("Some solutions are left out: *.generations.jsonl holds all of them.")
            title = _front(run, several) + dataset
            yield Part(
                title,
                note=" ".join(notes).strip(),
                id=_problems_id(run, dataset),
                problems=shown,
                models=models,
            )


def _differ(solutions: Iterable[Solution]) -> bool:
    return len({solution.status == "passed" for solution in solutions}) > 1


def _jobs(runs: Sequence[Results], several: bool) -> Iterator[Part]:
    for number, run in enumerate(runs):
        front = _front(run, several)
        seconds = Counter()
        for job in run.jobs:
            seconds[job["step"]] += job["seconds"]
        if any(run.graph.values()):
            chart = charts.graph_chart(layout(run.graph), run.graph, seconds)
            yield Part(f"{front}steps", id=f"steps-{number}", chart=chart)
        if run.jobs:
            yield Part(f"{front}jobs", table=list(_job_table(run)))
        table = [[name, f"{size / 1e6:,.1f}"] for name, size in run.sizes.items() if size > 1e5]
        yield Part(f"{front}disk", table=[["files of", "MB"], *table])


def _job_table(run: Results) -> Iterator[list[str]]:
    """The headings and a row for each job. Planned memory has a column if it is known."""
    columns = {"memory": "memory, MB"}
    columns |= {"planned": "planned, MB"} if run.planned else {}
    columns |= {"asked": "asked, MB", "minutes": "at most, minutes", "load": "load, %"}
    yield ["job", "seconds", *columns.values()]
    for job in run.jobs:
        values = job | {"planned": run.planned.get(job["job"])}
        yield [job["job"], f"{job['seconds']:.1f}", *(_rounded(values[key]) for key in columns)]


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _facts(runs: Sequence[Results], several: bool) -> Iterator[Part]:
    for run in runs:
        front = _front(run, several)
        if run.missing:
            yield Part(f"{front}missing", table=[["what is missing"], *([m] for m in run.missing)])
        if run.chosen:
            values = ([key, json.dumps(value)] for key, value in run.chosen.items())
            table = [["key", "value"], *values]
            yield Part(f"{front}chosen values", table=table)
        if run.config:
            yield Part(label=f"{front}the complete configuration", text=run.config)
        if run.rows:
            heads = ["rows of", "used", "held out", "left out"]
            table = [
                [name, report["training"], report["validation"], _left_out(report)]
                for name, report in run.rows.items()
            ]
            yield Part(f"{front}rows", table=[heads, *table])
        if run.versions:
            yield Part(f"{front}versions", table=[["package", "version"], *run.versions.items()])


def _left_out(report: dict) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in report["removed"].items()) or "none"
