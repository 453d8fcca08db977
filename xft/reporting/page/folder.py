"""Reads what a results folder holds, for the report. What is missing is named and is no error."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import numpy as np

from xft.checkpoints.layout import MLP_FORMS
from xft.common.errors import UserError, collecting_errors, errors_at
from xft.common.json_files import read_json, read_json_objects
from xft.common.results_folder import CONFIG_FILE
from xft.config.reading import as_yaml, recorded_config, shown_choices, shown_values
from xft.config.sections import WorkflowConfig, problem_label
from xft.config.steps import COSTS
from xft.evaluation.forms import load_problems
from xft.evaluation.result import RESULT, tests_of
from xft.evaluation.samples import samples_path
from xft.hub.named_sets import NAMED_SETS
from xft.reporting.comparisons import COLUMNS, COMPARED, loss_values
from xft.reporting.formats import LOSS_RESULT
from xft.reporting.page.files import find_made, is_own, own_files
from xft.reporting.page.flops import base_table, flops_to_make
from xft.reporting.runs import Result, Row, read_runs, results_of
from xft.reporting.tables import score
from xft.reporting.verdict import Candidate, Verdict, decide, find_candidates, known_sets
from xft.store.job_records import COSTS_FILE, total_cost

POINTS = 300  # about, of a training's curve: more are not seen in a chart
SMOOTHING = 0.05  # of the smoothed loss: the weight of the newest step
PROJECTIONS = MLP_FORMS[0].projections  # of the only form with so many
LAST_STEPS = 10  # of a tuning: over these, a router's load is averaged


@dataclass(frozen=True)
class Solution:
    """What a model wrote for a problem.

    failed_call: the first call that went wrong, or None.
    """

    status: str
    code: str
    failed_call: str | None


@dataclass
class Results:
    """The contents of a results folder. A part that the folder does not have is empty.

    Parts whose keys are listed are lists of dictionaries.

    scores: a row for each evaluation and set of tests: label, seed, dataset, problems, tests, share
    with its interval, low to high (percent), loss.
    losses: a row for each file of validation losses: label, seed, model, rows, loss with its
    interval.
    comparisons: as in comparisons.csv.
    candidates, verdict: see `reporting.verdict`.
    summary: the text of summary.md.
    curves: training, step, loss, smoothed, learning_rate.
    routers: training, step, entropy, noise_changed.
    loads: training, layer, expert, load (1: an equal part).
    shares: merge, layer, expert, share (1: an equal one).
    spreads: mixture, layer, spread.
    solutions: by data set, problem and model.
    rows: the reports of the rows, by name.
    versions: of packages.
    config: the configuration as YAML, without places and keys that change no result.
    prompts: by data set and problem.
    chosen: its values that are not the defaults.
    jobs: job, and as `total_cost` reads them.
    made: see `find_made`.
    models: the ids of the evaluated models, by label and seed.
    flops: of all trainings that a model comes from, by label and seed.
    missing: sentences.
    unfinished: those about what each finished run has.
    """

    folder: Path
    scores: list[dict] = field(default_factory=list)
    losses: list[dict] = field(default_factory=list)
    comparisons: list[dict] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    verdict: Verdict | None = None
    summary: str = ""
    curves: list[dict] = field(default_factory=list)
    routers: list[dict] = field(default_factory=list)
    loads: list[dict] = field(default_factory=list)
    shares: list[dict] = field(default_factory=list)
    spreads: list[dict] = field(default_factory=list)
    solutions: dict[str, dict[str, dict[str, Solution]]] = field(default_factory=dict)
    rows: dict[str, dict] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    config: str = ""
    prompts: dict[str, dict[str, str]] = field(default_factory=dict)
    chosen: dict[str, object] = field(default_factory=dict)
    jobs: list[dict] = field(default_factory=list)
    made: dict[str, dict] = field(default_factory=dict)
    models: dict[tuple[str, str], str] = field(default_factory=dict)
    flops: dict[tuple[str, str], int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


def read_results(folder: Path) -> Results:
    """The contents of a results folder, also of an unfinished run.

    The folder may be somebody else's: a file that leads out of it is not read (`files.is_own`).
    Raises UserError if there is no such folder, or if a file in it is broken.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}. Name the results_dir of a run")
    results = Results(folder)
    config = _read_config(results)
    _read_summary(results)
    evaluated = _read_evaluations(results)
    if config:
        _read_prompts(results, config, evaluated)
    _read_jobs(results)
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
        raise UserError(f"{file} is not what step {step} writes: {error!r:.200}") from None


def _read_config(results: Results) -> WorkflowConfig | None:
    file = results.folder / CONFIG_FILE
    with collecting_errors(results.missing):
        if file.exists() and not is_own(results.folder, file):
            raise UserError(f"{CONFIG_FILE}: it leads out of the folder")
        config = recorded_config(results.folder)
        results.config = as_yaml(shown_values(config))
        results.chosen.update(shown_choices(config))
        return config


def _read_prompts(results: Results, config: WorkflowConfig, evaluated: dict[str, str]) -> None:
    """Take the prompts of the evaluated problems. No other file that the config names is shown.

    evaluated: the SHA-256 of each data set.
    """
    for name in config.evaluation.datasets:
        label = problem_label(name)
        if label not in evaluated:
            continue
        if name in NAMED_SETS:
            name = str(results.folder / "problems" / NAMED_SETS[name].file)
        with collecting_errors(results.missing), errors_at(f"prompts of {label}"):
            problem_set = load_problems(name)
            if problem_set.sha256 != evaluated[label]:
                raise UserError(f"{name} is not what was evaluated")
            prompts = {problem.task_id: problem.prompt for problem in problem_set.problems}
            results.prompts[label] = prompts


def _read_summary(results: Results) -> None:
    import pandas as pd

    comparisons, text = results.folder / "comparisons.csv", results.folder / "summary.md"
    if not all(is_own(results.folder, file) for file in (comparisons, text)):
        results.unfinished.append(
            "comparisons.csv, summary.md: the run is not finished, or a link leads elsewhere"
        )
        return
    results.summary = text.read_text(encoding="utf-8")
    with _written_by("summary", comparisons):
        # The summary of an earlier version has no errors.
        pairs = pd.DataFrame({"error": float("nan")} | dict(pd.read_csv(comparisons)))[COLUMNS]
        pairs = pairs.dropna(subset=[*{*COLUMNS} - {"low", "high", "error"}])
        numbers = COLUMNS[len(COMPARED) :]
        pairs[numbers] = pairs[numbers].apply(pd.to_numeric)
        results.comparisons.extend(pairs.to_dict("records"))


def _read_evaluations(results: Results) -> dict[str, str]:
    """Take scores, solutions and the verdict. Returns the SHA-256 of each data set, by its name."""
    import pandas as pd

    table = results.folder / "runs.csv"
    if not is_own(results.folder, table):
        results.unfinished.append("runs.csv: nothing was evaluated, or a link leads elsewhere")
        return {}
    rows, evaluated, contents = read_runs(table), {}, {}
    losses = _read_losses(results, rows)
    for evaluation in _own_results(results, rows, "eval"):
        with _written_by("eval", evaluation.file):
            contents[evaluation] = result = RESULT.read(evaluation.file)
            evaluated[evaluation.row.dataset] = result["dataset"]["sha256"]
            results.versions.update(result["versions"])
            results.models[tuple(_about(evaluation).values())] = result["model"]["id"]
            loss = losses.get(evaluation.row.validation_loss)
            _take_scores(results, evaluation, result, loss and loss["loss"])
            _take_solutions(results, evaluation, result)
    results.candidates.extend(find_candidates(contents, losses))
    labels = [model.label for model in results.candidates]
    compared = pd.DataFrame(results.comparisons, columns=COLUMNS)
    compared = compared[compared[["first", "second"]].isin(labels).all(axis=1)]
    results.verdict = decide(compared, results.candidates, known_sets(contents))
    return evaluated


def _own_results(results: Results, rows: Sequence[Row], step: str) -> Iterator[Result]:
    for result in results_of(rows, step):
        if is_own(results.folder, result.file):
            yield result
        else:
            subject = f"{result.subject.label}, {result.row.dataset}"
            results.unfinished.append(f"{result.file}: {step} of {subject} is not here")


def _read_losses(results: Results, rows: Sequence[Row]) -> dict[Path, dict]:
    """Take the validation losses. Returns the contents of their files."""
    contents = {}
    for measured in _own_results(results, rows, "validation_loss"):
        contents[measured.file] = content = LOSS_RESULT.read(measured.file)
        with _written_by("validation_loss", measured.file):
            (values,) = loss_values({measured: content})
            row = _about(measured) | {"model": values.subject.model, "rows": len(values.values)}
            results.losses.append(row | mean_interval(values.values, values.weights))
    return contents


def mean_interval(values: Sequence[float], weights: Sequence[float]) -> dict[str, float]:
    """The weighted mean m of losses x with weights w, and its 95% interval, low to high.

    Half of it is 1.96 standard errors of a ratio estimate: sqrt(sum w^2 (x - m)^2) / sum w.
    """
    loss = np.average(values, weights=weights)
    errors = np.multiply(weights, np.subtract(values, loss))
    half = 1.96 * np.linalg.norm(errors) / np.sum(weights)
    return {"loss": float(loss), "low": float(loss - half), "high": float(loss + half)}


def _about(result: Result) -> dict[str, str]:
    return {"label": result.subject.label, "seed": "" if result.seed is None else str(result.seed)}


def _take_scores(results: Results, evaluation: Result, result: dict, loss: float | None) -> None:
    row = _about(evaluation)
    row |= {"dataset": evaluation.row.dataset, "problems": result["dataset"]["problems"]}
    for tests in tests_of(result):
        scored = score(result, tests)
        shown = {"tests": tests, "share": scored.pop("pass@1"), "loss": loss}
        results.scores.append(row | shown | scored)


def _take_solutions(results: Results, evaluation: Result, result: dict) -> None:
    seed = "" if evaluation.seed is None else f", seed {evaluation.seed}"
    name = evaluation.subject.label + seed
    file = samples_path(evaluation.file)
    samples = read_json_objects(file) if is_own(results.folder, file) else ()
    codes = {line["task_id"]: line["solution"] for line in samples if line.get("number") == 0}
    problems = results.solutions.setdefault(evaluation.row.dataset, {})
    for problem in result["problems"]:
        if problem["sample"] == 0:
            code = codes.get(problem["task_id"], "")
            solution = Solution(problem["plus"], code, problem["failed_call"])
            problems.setdefault(problem["task_id"], {})[name] = solution


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
                _read_shares(results, name, lines[-1]["shares"])


def _curve(lines: Sequence[dict]) -> list[dict]:
    """The points of a training's curve, one for each step. A loss of NaN is a gap in it."""
    import pandas as pd

    losses = pd.Series([float(line["loss"]) for line in lines], dtype=float)
    losses = losses.where(np.isfinite(losses))
    smoothed = losses.ewm(alpha=SMOOTHING, ignore_na=True).mean().where(losses.notna())
    return [
        {"step": line["step"], "loss": loss, "smoothed": mean}
        | {"learning_rate": line.get("learning_rate")}
        for line, loss, mean in zip(lines, losses, smoothed, strict=True)
    ]


def _thinned(points: Sequence[dict]) -> Sequence[dict]:
    """About `POINTS` of the points at most, evenly chosen, with the last one."""
    return points[:: -max(1, len(points) // POINTS)][::-1]


def _read_routers(results: Results, name: str, lines: Sequence[dict]) -> None:
    lines = [line for line in lines if "load" in line and "entropy" in line]
    for line in _thinned(lines):
        point = {"training": name, "step": line["step"], "entropy": mean(line["entropy"])}
        changed = line.get("noise_changed")
        results.routers.append(point | {"noise_changed": mean(changed) if changed else None})
    if lines and (layers := _layers(results.folder, name, len(lines[0]["load"]))):
        loads = np.mean([line["load"] for line in lines[-LAST_STEPS:]], axis=0)
        for (place, expert), load in np.ndenumerate(loads * loads.shape[1]):
            cell = {"layer": f"layer {layers[place]}", "expert": expert + 1, "load": float(load)}
            results.loads.append({"training": name} | cell)


def _layers(folder: Path, mixture: str, count: int) -> Sequence[int]:
    """The numbers of the layers with experts; none if the mixture is not there, or not yet."""
    config = folder / mixture / "config.json"
    return (read_json(config)["upcycled_layers"] or range(count)) if is_own(folder, config) else ()


def _read_shares(results: Results, name: str, shares: list) -> None:
    """Take the shares of the routed experts, relative to an equal one.

    shares: [layers, sets, experts]. A layer has one set, or one for each projection. All layers may
    have one set together.
    """
    artifacts, count = results.made, len(shares) if len(shares) > 1 else 0
    mixed = (artifact for artifact in artifacts.values() if artifact["job"] == name)
    mixture = next((artifacts.get(artifact["inputs"]["moe"]) for artifact in mixed), None)
    layers = _layers(results.folder, mixture["job"], count) if mixture else ()
    for place, sets in enumerate(shares):
        layer = "all upcycled layers" if len(shares) == 1 else f"upcycled layer {place + 1}"
        layer = f"layer {layers[place]}" if len(layers) == len(shares) else layer
        parts = PROJECTIONS if len(sets) == len(PROJECTIONS) else range(1, len(sets) + 1)
        for part, of_set in zip(parts, sets, strict=True):
            cell = {"merge": name, "layer": f"{layer}, {part}" if len(sets) > 1 else layer}
            for expert, share in enumerate(of_set, start=1):
                results.shares.append(cell | {"expert": expert, "share": share * len(of_set)})


def _read_jobs(results: Results) -> None:
    """Take what the jobs cost: the longest job first."""
    for file in own_files(results.folder, f"{COSTS}/**/*.{COSTS_FILE}"):
        with _written_by("store.make", file):
            stem = file.with_name(file.name.removesuffix(f".{COSTS_FILE}"))
            name = stem.relative_to(results.folder / COSTS).as_posix()
            results.jobs.append({"job": name} | total_cost(file))
    results.jobs.sort(key=lambda job: -job["seconds"])
    with collecting_errors(results.missing):
        results.made.update(find_made(results.folder, results.jobs))
        if table := base_table(results.folder, results.made):
            for model in (model for model, key in results.models.items() if key in results.made):
                key = results.models[model]
                results.flops[model] = flops_to_make(results.folder, table, results.made, key)


def _read_diversity(results: Results) -> None:
    for file in own_files(results.folder, "**/diversity.json"):
        name = _variation(file.parent, results.folder)
        with _written_by("diversity", file):
            results.spreads.extend(
                {"mixture": name, "layer": row["layer"], "spread": 100 * row["spread"]}
                for row in read_json(file)["layers"]
                if row["spread"] is not None
            )


def _variation(folder: Path, above: Path) -> str:
    """The folders of a variant and seed, such as `moe.num_experts~4/seed~43`."""
    return folder.relative_to(above).as_posix().removeprefix(".") or "as configured"
