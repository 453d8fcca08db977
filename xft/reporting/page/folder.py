"""Reads what a results folder holds, for the report. What is missing is named and is no error."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from xft.checkpoints.strict_json import read_json
from xft.common.errors import UserError
from xft.common.json_lines import read_json_objects
from xft.config.recorded import CONFIG_FILE, chosen_values, recorded_config
from xft.config.sections import XftConfig, problem_label
from xft.evaluation.ground_truth import TEST_SETS
from xft.evaluation.problems import load_problems
from xft.evaluation.result import read_result
from xft.evaluation.samples import samples_path
from xft.hub.named_sets import NAMED_SETS
from xft.reporting.comparisons import COLUMNS
from xft.reporting.page.files import is_own, own_files
from xft.reporting.page.jobs import read_jobs
from xft.reporting.tables import LOSS

POINTS = 300  # about, of a training's curve: more are not seen in a chart
SMOOTHING = 0.05  # of the smoothed loss: the weight of the newest step
LAST_STEPS = 10  # of a tuning: over these, a router's load is averaged


@dataclass(frozen=True)
class Solution:
    """What a model wrote for a problem. failed_call: the first call that went wrong, or None."""

    status: str
    code: str
    failed_call: str | None


@dataclass
class Results:
    """The contents of a results folder. A part that the folder does not have is empty.

    scores: a row for each evaluation and set of tests: label, seed, name (label and seed), dataset,
    tests, share with its interval, low to high (percent), loss. comparisons: as in comparisons.csv.
    summary: the text of summary.md. curves: training, step, loss, smoothed, learning_rate. routers:
    training, step, entropy, noise_changed. loads: training, layer, expert, load (1: an equal part).
    shares: merge, set, expert, deviation from an equal share. spreads: mixture, layer, spread. All
    are lists of dictionaries. solutions: by data set, problem and model. rows: the reports of the
    rows, by name. versions: of packages. config: the text of config.yaml. prompts: by data set and
    problem. chosen: the values of the configuration that are not the defaults.
    jobs: as `read_jobs` reads them. missing: sentences.
    """

    folder: Path
    scores: list[dict] = field(default_factory=list)
    comparisons: list[dict] = field(default_factory=list)
    summary: str = ""
    curves: list[dict] = field(default_factory=list)
    routers: list[dict] = field(default_factory=list)
    loads: list[dict] = field(default_factory=list)
    shares: list[dict] = field(default_factory=list)
    spreads: list[dict] = field(default_factory=list)
    solutions: dict[str, dict[str, dict[str, Solution]]] = field(default_factory=dict)
    evaluated: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    config: str = ""
    prompts: dict[str, dict[str, str]] = field(default_factory=dict)
    chosen: dict[str, object] = field(default_factory=dict)
    jobs: list[dict] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def read_results(folder: Path) -> Results:
    """The contents of a results folder, also of an unfinished run.

    The folder may be somebody else's: a file that leads out of it is not read (`files.is_own`).
    Raises UserError if there is no such folder, or if a file in it is broken.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}. Name the results_dir of a run")
    results = Results(folder)
    results.jobs = read_jobs(folder)
    config = _read_config(results)
    _read_tables(results)
    if config:
        _read_prompts(results, config)
    _read_metrics(results)
    _read_diversity(results)
    for file in own_files(folder, "**/data/report.json"):
        results.rows[_variation(file.parent.parent, folder)] = read_json(file)
    if not results.rows:
        results.missing.append("data/report.json: no rows were prepared")
    return results


@contextmanager
def _written_by(step: str, file: Path) -> Iterator[None]:
    """Raise UserError where the values of a file are not those that the step writes."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise UserError(f"{file} is not as step {step} writes it: {error!r:.200}") from None


def _read_config(results: Results) -> XftConfig | None:
    file = results.folder / CONFIG_FILE
    if file.exists() and not is_own(results.folder, file):
        results.missing.append(f"{CONFIG_FILE}: it leads out of the folder")
        return None
    try:
        config = recorded_config(results.folder)
    except UserError as error:
        results.missing.append(str(error))
        return None
    results.config = file.read_text(encoding="utf-8")
    results.chosen.update(chosen_values(config))
    return config


def _read_prompts(results: Results, config: XftConfig) -> None:
    """Take the prompts of the evaluated problems. No other file that the config names is shown."""
    for name in config.evaluation.datasets:
        label = problem_label(name)
        fetched = results.folder / "problems" / f"{label}.jsonl"
        if label not in results.evaluated:
            continue
        try:
            found = load_problems(str(fetched if name in NAMED_SETS else name))
        except UserError as error:
            results.missing.append(f"prompts of {label}: {error}")
            continue
        if found.sha256 == results.evaluated[label]:
            prompts = {problem.task_id: problem.prompt for problem in found.problems}
            results.prompts[label] = prompts
        else:
            results.missing.append(f"prompts of {label}: {name} is not what was evaluated")


def _read_tables(results: Results) -> None:
    import pandas as pd

    table, comparisons = results.folder / "summary.csv", results.folder / "comparisons.csv"
    text = results.folder / "summary.md"
    if not all(is_own(results.folder, file) for file in (table, comparisons, text)):
        results.missing.append(
            "summary.csv, comparisons.csv, summary.md: the run is not finished, or a link leads "
            "elsewhere"
        )
        return
    results.summary = text.read_text(encoding="utf-8")
    try:
        scores = pd.read_csv(table, keep_default_na=False)
        pairs = pd.read_csv(comparisons)[COLUMNS].dropna()
        pairs[COLUMNS[4:]] = pairs[COLUMNS[4:]].apply(pd.to_numeric)
        results.comparisons.extend(pairs.to_dict("records"))
    except (ValueError, KeyError) as error:
        raise UserError(f"{table}, {comparisons}: not tables of step summary: {error}") from None
    with _written_by("summary", table):
        for row in scores.to_dict("records"):
            _read_score(results, row)


def _read_score(results: Results, row: dict) -> None:
    """Take a row of summary.csv, and from its evaluation the solutions."""
    label = row["model"] + (f" ({row['variant']})" if row.get("variant") else "")
    seed = str(row.get("seed", ""))
    name = f"{label}, seed {seed}" if seed else label
    loss = row.get(LOSS, "")
    for tests in TEST_SETS:
        results.scores.append(
            {"label": label, "seed": seed, "name": name, "dataset": row["dataset"], "tests": tests}
            | {"problems": row["problems"], "share": row[f"pass@1 {tests}"]}
            | {"low": row[f"low {tests}"], "high": row[f"high {tests}"]}
            | {"loss": None if loss == "" else float(loss)}
        )
    file = _in_folder(results.folder, Path(row["eval file"]))
    if file is None:
        results.missing.append(f"{row['eval file']}: the solutions of {label} are not shown")
        return
    with _written_by("eval", file):
        result = read_result(file)
        results.versions.update(result["versions"])
        results.evaluated[row["dataset"]] = result["dataset"]["sha256"]
        codes = _solutions(results.folder, samples_path(file))
        problems = results.solutions.setdefault(row["dataset"], {})
        for problem in result["problems"]:
            if problem["sample"] == 0:
                code = codes.get(problem["task_id"], "")
                solution = Solution(problem["plus"], code, problem["failed_call"])
                problems.setdefault(problem["task_id"], {})[name] = solution


def _in_folder(folder: Path, file: Path) -> Path | None:
    """A file of the run, in its results folder. The run may have had another working directory."""
    parts = file.parts
    places = (folder.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((place for place in places if is_own(folder, place)), None)


def _solutions(folder: Path, file: Path) -> dict[str, str]:
    """The first solution of each problem, by its task id. Empty if the file is not there."""
    lines = read_json_objects(file) if is_own(folder, file) else ()
    return {line["task_id"]: line["solution"] for line in lines if line.get("number") == 0}


def _read_metrics(results: Results) -> None:
    files = own_files(results.folder, "metrics/**/*.jsonl")
    if not files:
        results.missing.append("metrics/: no training has begun")
    for file in files:
        name = file.relative_to(results.folder / "metrics").with_suffix("").as_posix()
        with _written_by(name, file):
            lines = [line for line in read_json_objects(file, growing=True) if "loss" in line]
            results.curves.extend({"training": name} | point for point in _thinned(_curve(lines)))
            _read_routers(results, name, lines)
            if lines and "shares" in lines[-1]:
                shares = _shares(lines[-1]["shares"])
                results.shares.extend({"merge": name} | share for share in shares)


def _curve(lines: Sequence[dict]) -> list[dict]:
    """The points of a training's curve, one for each step. A loss of NaN is a gap in it."""
    points, smoothed, weight = [], 0.0, 0.0
    for line in lines:
        point = {"step": line["step"], "loss": line["loss"], "smoothed": None}
        if math.isfinite(line["loss"]):
            smoothed += SMOOTHING * (line["loss"] - smoothed)
            weight += SMOOTHING * (1 - weight)
            point["smoothed"] = smoothed / weight
        points.append(point | {"learning_rate": line.get("learning_rate")})
    return points


def _thinned(points: Sequence[dict]) -> Sequence[dict]:
    """About `POINTS` of the points at most, evenly chosen, with the last one."""
    return points[:: -max(1, len(points) // POINTS)][::-1]


def _read_routers(results: Results, name: str, lines: Sequence[dict]) -> None:
    lines = [line for line in lines if "load" in line and "entropy" in line]
    for line in _thinned(lines):
        point = {"training": name, "step": line["step"], "entropy": _mean(line["entropy"])}
        changed = line.get("noise_changed")
        results.routers.append(point | {"noise_changed": _mean(changed) if changed else None})
    last = [line["load"] for line in lines[-LAST_STEPS:]]
    for layer, loads in enumerate(zip(*last, strict=True)):
        for expert, values in enumerate(zip(*loads, strict=True), start=1):
            load = _mean(values) * len(loads[0])
            results.loads.append({"training": name, "layer": layer, "expert": expert, "load": load})


def _shares(layers: list) -> Iterator[dict]:
    """The shares of the routed experts, as differences from an equal one.

    layers: of metrics, [layers, sets in a layer, experts].
    """
    for number, shares in enumerate(shares for layer in layers for shares in layer):
        for expert, share in enumerate(shares, start=1):
            yield {"set": number, "expert": expert, "deviation": share - 1 / len(shares)}


def _read_diversity(results: Results) -> None:
    for file in own_files(results.folder, "**/diversity.json"):
        name = _variation(file.parent, results.folder)
        with _written_by("diversity", file):
            for layer in read_json(file)["layers"]:
                spread = {"mixture": name, "layer": layer["layer"], "spread": 100 * layer["spread"]}
                results.spreads.append(spread)


def _variation(folder: Path, above: Path) -> str:
    """The folders of a variant and seed, such as `moe.num_experts~4/seed~43`; else `own values`."""
    return folder.relative_to(above).as_posix().removeprefix(".") or "own values"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
