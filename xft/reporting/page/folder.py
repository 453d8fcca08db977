"""Reads what a results folder holds, for the page. What is missing is named and is no error.

The folder may be somebody else's: what leads out of it is not read.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import numpy as np

from xft.artifacts.manifest import manifest_path, read_manifest
from xft.checkpoints.layout import MLP_FORMS
from xft.common.errors import UserError, collecting_errors, errors_at
from xft.common.json_files import read_json, read_json_objects
from xft.common.results_folder import CONFIG_FILE
from xft.config.reading import as_yaml, recorded_config, shown_choices, shown_values
from xft.config.section import keys
from xft.config.sections import TRAINING, MoeConfig, dataset_name
from xft.config.steps import COSTS, TRAINING_SECTIONS
from xft.estimates.jobs import TrainingJob, training_work
from xft.estimates.model_sizes import Models, ModelTable, read_table
from xft.estimates.rows import stored_lengths
from xft.evaluation.forms import load_problems
from xft.evaluation.result import samples_path, tests_of
from xft.hub.named_sets import NAMED_SETS, set_in_words
from xft.reporting.comparisons import read_comparisons
from xft.reporting.conclusions import Conclusions, read_conclusions
from xft.reporting.names import without_lambda
from xft.reporting.run_table import LOSS_TESTS, Result, RunRow, read_runs
from xft.reporting.statistics import mean_interval
from xft.reporting.summaries import OWN, Summary
from xft.reporting.swept import Grid, Line, find_lines
from xft.reporting.verdict import BASE, EvaluatedModel
from xft.store.job_records import COSTS_FILE, total_cost
from xft.store.store import in_store
from xft.training.at_end import LAST_STEPS, with_routing

POINTS = 300  # about, of a training's curve: more are not seen in a chart
SMOOTHING = 0.05  # of the smoothed loss: the weight of the newest step
PROJECTIONS = MLP_FORMS[0].projections  # of the only form with so many
DENSE = ("sft", "soup", "dense")
# What step summary writes for the page.
SUMMARY = ("summary.md", "summary.json", "comparisons.csv")
MADE = ("kind", "inputs", "parameters")  # what a manifest says of an artifact


@dataclass(frozen=True)
class Solution:
    """The answer of a model to a problem.

    failed_call: the first call that went wrong, or None.
    """

    status: str
    code: str
    failed_call: str | None


# A row of a chart or a table, by column.
Row = dict[str, object]
# The label and the seed of an evaluated model. The seed is empty if there is one.
ModelKey = tuple[str, str]


@dataclass
class Settings:
    """The configuration of a run.

    config: as YAML, without keys that change no result.
    chosen: its values that are no defaults, by key.
    evaluated: the problem sets by label.
    """

    config: str = ""
    chosen: dict[str, object] = field(default_factory=dict)
    evaluated: dict[str, str] = field(default_factory=dict)


@dataclass
class Results:
    """The results of a run's evaluations, and the conclusions of its summary.

    text: summary.md.
    conclusions: of the summary of a finished run; else None.
    comparisons: its pairs, as rows of `comparison_table`.
    swept, grids: what was measured with the values of swept keys.
    candidates: the evaluated models.
    values: label, method, model, seed, dataset, tests, units; the label without lambda as line,
        lambda, whether the model depends on swept keys; the share of solved problems in percent, or
        the loss on validation rows, with its interval, low to high; for a share the loss too.
    solutions: by data set, problem and model.
    prompts: by data set and problem.
    models: the ids of the evaluated models.
    versions: of packages.
    """

    text: str = ""
    conclusions: Conclusions | None = None
    comparisons: list[Row] = field(default_factory=list)
    swept: list[Line] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    candidates: list[EvaluatedModel] = field(default_factory=list)
    values: list[Row] = field(default_factory=list)
    solutions: dict[str, dict[str, dict[str, Solution]]] = field(default_factory=dict)
    prompts: dict[str, dict[str, str]] = field(default_factory=dict)
    models: dict[ModelKey, str | None] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass
class Trainings:
    """The curves of the trainings, and how far the experts lie apart.

    curves: training, step, loss, smoothed, learning_rate.
    routers: training, step, entropy, noise_changed.
    loads: training, layer, expert, load (1: an equal part).
    shares: merge, layer, expert, share (1: an equal one).
    spreads: mixture, layer, spread.
    """

    curves: list[Row] = field(default_factory=list)
    routers: list[Row] = field(default_factory=list)
    loads: list[Row] = field(default_factory=list)
    shares: list[Row] = field(default_factory=list)
    spreads: list[Row] = field(default_factory=list)


@dataclass
class Costs:
    """The jobs of a run, and what they made.

    jobs: job, and as `total_cost` reads them; the longest first.
    made: the kind, inputs (ids) and parameters of each artifact, with its job, by id.
    flops: of all trainings that an evaluated model comes from.
    """

    jobs: list[Row] = field(default_factory=list)
    made: dict[str, Row] = field(default_factory=dict)
    flops: dict[ModelKey, int | None] = field(default_factory=dict)

    def made_from(self, artifact: str) -> list[Row]:
        """The jobs that made an artifact and all that it depends on, as in `made`."""
        chain = [artifact]
        for key in chain:  # it grows
            inputs = self.made[key]["inputs"].values()
            chain += [i for i in inputs if i in self.made and i not in chain]
        return [self.made[key] for key in chain]


class Folder:
    """The contents of a results folder, also of an unfinished run. What it does not have is empty.

    rows: the reports of the rows, by name.
    missing: sentences. unfinished: those about what each finished run has.

    Raises UserError if there is no such folder, or if a file in it is broken.
    """

    def __init__(self, path: Path):
        if not path.is_dir():
            raise UserError(f"there is no folder {path}. Name the results_dir of a run")
        self.path = path
        self.missing: list[str] = []
        self.unfinished: list[str] = []
        self.settings = self._read_settings()
        self.results = self._read_results()
        self.costs = self._read_costs()
        self.trainings = self._read_trainings()
        reports = _by_variation(path, "data/report.json")
        self.rows = {name: read_json(file) for name, file in reports}
        if not self.rows:
            self.missing.append("data/report.json: no rows were prepared")

    def _read_settings(self) -> Settings:
        file = self.path / CONFIG_FILE
        with collecting_errors(self.missing):
            if file.exists() and not is_own(self.path, file):
                raise UserError(f"{CONFIG_FILE}: it leads out of the folder")
            config = recorded_config(self.path)
            evaluated = {dataset_name(name): name for name in config.evaluation.datasets}
            return Settings(as_yaml(shown_values(config)), shown_choices(config), evaluated)
        return Settings()

    # Results

    def _read_results(self) -> Results:
        results = Results()
        file = self.path / "summary.md"
        if is_own(self.path, file):
            results.text = file.read_text(encoding="utf-8")
        missing = [name for name in SUMMARY if not is_own(self.path, self.path / name)]
        if missing:
            end = "the run is not finished, or a link leads elsewhere"
            self.unfinished.append(f"{missing[0]}: {end}")
        summary = Summary(self._read_runs(), self._is_here)
        self._read_values(results, summary)
        if summary.evaluations and not missing:
            self._read_conclusions(results, summary)
        self._read_prompts(results, summary)
        return results

    def _read_runs(self) -> list[RunRow]:
        table = self.path / "runs.csv"
        if is_own(self.path, table):
            return read_runs(table)
        self.unfinished.append("runs.csv: nothing was evaluated, or a link leads elsewhere")
        return []

    def _is_here(self, result: Result) -> bool:
        if is_own(self.path, result.file):
            return True
        subject = f"{result.subject.label} on {set_in_words(result.row.dataset)}"
        self.unfinished.append(f"{result.file}: {result.step} of {subject} is not here")
        return False

    def _read_values(self, results: Results, summary: Summary) -> None:
        for result in summary.losses:
            with _written_by(result.step, result.file):
                results.values.append(_loss_row(result))
        for result in summary.evaluations:
            with _written_by(result.step, result.file):
                content = result.content
                results.versions |= content["versions"]
                results.models[result.subject.label, _seed(result)] = content["model"]["id"]
                loss = summary.loss(result.row)
                results.values += [_score_row(result, tests, loss) for tests in tests_of(content)]
                self._read_solutions(results, result)
        results.candidates = summary.candidates

    def _read_solutions(self, results: Results, result: Result) -> None:
        name = result.subject.label + ("" if result.seed is None else f", seed {result.seed}")
        file = samples_path(result.file)
        samples = read_json_objects(file) if is_own(self.path, file) else ()
        codes = {line["task_id"]: line["solution"] for line in samples if line.get("number") == 0}
        problems = results.solutions.setdefault(result.row.dataset, {})
        for problem in result.content["problems"]:
            if problem["sample"] == 0:
                code = codes.get(problem["task_id"], "")
                solution = Solution(problem["plus"], code, problem["failed_call"])
                problems.setdefault(problem["task_id"], {})[name] = solution

    def _read_conclusions(self, results: Results, summary: Summary) -> None:
        results.conclusions = read_conclusions(self.path / "summary.json")
        file = self.path / "comparisons.csv"
        with _written_by("summary", file):
            table = read_comparisons(file)
        results.comparisons = table.to_dict("records")
        results.swept = find_lines(summary.swept_figures, summary.swept_keys, table)
        results.grids = summary.grids

    def _read_prompts(self, results: Results, summary: Summary) -> None:
        """Take the prompts of the evaluated problems. No other file of the config is shown."""
        evaluated = {r.row.dataset: r.content["dataset"] for r in summary.evaluations}
        for label, name in self.settings.evaluated.items():
            if label not in evaluated:
                continue
            if name in NAMED_SETS:
                name = str(self.path / "problems" / NAMED_SETS[name].file)
            with collecting_errors(self.missing), errors_at(f"prompts of {set_in_words(label)}"):
                data_set = load_problems(name)
                if data_set.sha256 != evaluated[label]["sha256"]:
                    raise UserError(f"{name} is not what was evaluated")
                results.prompts[label] = {p.task_id: p.prompt for p in data_set.problems}

    # Trainings

    def _read_trainings(self) -> Trainings:
        trainings = Trainings()
        files = own_files(self.path, "metrics/**/*.jsonl")
        if not files:
            self.missing.append("metrics/: no training has begun")
        for file in files:
            name = file.relative_to(self.path / "metrics").with_suffix("").as_posix()
            with _written_by(name, file):
                lines = [line for line in read_json_objects(file, growing=True) if "loss" in line]
                points = _thinned(_curve(lines))
                trainings.curves += [{"training": name} | point for point in points]
                with_routers = with_routing(lines)
                trainings.routers += _router_rows(name, with_routers)
                trainings.loads += self._load_rows(name, with_routers)
                if lines and "shares" in lines[-1]:
                    trainings.shares += self._share_rows(name, lines[-1]["shares"])
        for name, file in _by_variation(self.path, "diversity.json"):
            with _written_by("diversity", file):
                trainings.spreads += _spread_rows(name, read_json(file))
        return trainings

    def _load_rows(self, name: str, lines: Sequence[dict]) -> Iterator[Row]:
        """The loads of the experts at the end of a training."""
        layers = self._layers(name, len(lines[0]["load"])) if lines else ()
        if not layers:
            return
        loads = np.mean([line["load"] for line in lines[-LAST_STEPS:]], axis=0)
        for (place, expert), load in np.ndenumerate(loads * loads.shape[1]):
            cell = {"layer": f"layer {layers[place]}", "expert": expert + 1}
            yield {"training": name} | cell | {"load": float(load)}

    def _layers(self, mixture: str, count: int) -> Sequence[int]:
        """The numbers of the layers with experts; none if the mixture is not there, or not yet."""
        config = self.path / mixture / "config.json"
        if not is_own(self.path, config):
            return ()
        return read_json(config)["upcycled_layers"] or range(count)

    def _share_rows(self, name: str, shares: list) -> Iterator[Row]:
        """The shares of the routed experts, relative to an equal one.

        shares: [layers, sets, experts]. A layer has one set, or one for each projection. All layers
        may have one set together.
        """
        count = len(shares) if len(shares) > 1 else 0
        made = self.costs.made
        inputs = [artifact["inputs"] for artifact in made.values() if artifact["job"] == name]
        mixture = made.get(inputs[0]["moe"]) if inputs else None
        layers = self._layers(mixture["job"], count) if mixture else ()
        for place, sets in enumerate(shares):
            if len(layers) == len(shares):
                layer = f"layer {layers[place]}"
            elif len(shares) == 1:
                layer = "all upcycled layers"
            else:
                layer = f"upcycled layer {place + 1}"
            parts = PROJECTIONS if len(sets) == len(PROJECTIONS) else range(1, len(sets) + 1)
            for part, of_set in zip(parts, sets, strict=True):
                cell = {"merge": name, "layer": f"{layer}, {part}" if len(sets) > 1 else layer}
                for expert, share in enumerate(of_set, start=1):
                    yield cell | {"expert": expert, "share": share * len(of_set)}

    # Costs

    def _read_costs(self) -> Costs:
        costs = Costs()
        for file in own_files(self.path, f"{COSTS}/**/*.{COSTS_FILE}"):
            with _written_by("store.make", file):
                name = file.relative_to(self.path / COSTS).as_posix()
                costs.jobs.append({"job": name.removesuffix(f".{COSTS_FILE}")} | total_cost(file))
        costs.jobs.sort(key=lambda job: -job["seconds"])
        with collecting_errors(self.missing):
            for job in costs.jobs:
                self._read_made(costs, job)
            self._read_flops(costs)
        return costs

    def _read_made(self, costs: Costs, job: Row) -> None:
        """Take what a job made, a folder or a file."""
        for name in (job["job"], f"{job['job']}.json"):
            file = manifest_path(self.path / name)
            if is_own(self.path, file):
                manifest = read_manifest(file)
                known = {key: getattr(manifest, key) for key in MADE}
                costs.made[manifest.id] = job | known

    def _read_flops(self, costs: Costs) -> None:
        dense = [job["job"] for job in costs.made.values() if job["kind"] in DENSE]
        if not dense:
            return
        base = read_table(self.path / dense[0])
        for model, artifact in self.results.models.items():
            if artifact in costs.made:
                costs.flops[model] = self.flops_to_make(costs, base, artifact)

    def flops_to_make(self, costs: Costs, base: ModelTable, artifact: str) -> int | None:
        """The FLOPs of all trainings that an artifact comes from, with rows as they are.

        None if a training does not say what it did: another trainer or another version made it.
        """
        jobs = costs.made_from(artifact)
        with suppress(LookupError, ValueError):
            mixtures = [_options(MoeConfig, job) for job in jobs if job["kind"] == "moe"]
            models = Models(base, mixtures[0] if mixtures else MoeConfig())
            trained = [job for job in jobs if job["kind"] in TRAINING_SECTIONS]
            return sum(self._flops(costs, models, job) for job in trained)
        return None

    def _flops(self, costs: Costs, models: Models, job: Mapping) -> int:
        section = TRAINING_SECTIONS[job["kind"]]
        options, length = _options(TRAINING[section], job), job["parameters"]["max_length"]
        tokens = costs.made[job["inputs"]["tokens"]]
        lengths = stored_lengths(self.path / tokens["job"])
        launch, processes = options.launch, options.world_size
        training = TrainingJob(section, options, length, launch, processes, on_gpu=False)
        return training_work(models, training.with_rows(lengths), lengths.rows).flops

    def spent(self) -> dict:
        """The seconds that the tuned models of the verdict took, and their evaluation; nothing if
        the folder does not hold it.
        """
        made, verdict = self.costs.made, self.results.conclusions.verdict
        kinds = {model.label: model.kind for model in self.results.candidates}
        labels = [label for label in verdict.pair if kinds.get(label) != BASE]
        models = [
            {key for (name, _), key in self.results.models.items() if name == label and key in made}
            for label in labels
        ]
        if not models or not all(models):
            return {}
        times = [mean(_seconds(self.costs.made_from(key)) for key in keys) for keys in models]
        tuned = set.union(*models)
        evaluations = (job for job in made.values() if job["kind"] == "eval")
        evaluated = [job for job in evaluations if job["inputs"]["model"] in tuned]
        return {"models": dict(zip(labels, times, strict=True)), "evaluation": _seconds(evaluated)}


def _by_variation(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """The files with a name, by the folders of a variant and seed, such as `seed~43`."""
    for file in own_files(folder, f"**/{name}"):
        place = file.relative_to(folder).as_posix().removesuffix(name).strip("/")
        yield place or OWN, file


def _row_of(result: Result, dataset: str, tests: str, units: int) -> Row:
    """The first cells of a row of values."""
    subject = result.subject
    kind, lam = without_lambda(subject.model)
    return {
        "label": subject.label,
        "model": subject.model,
        "seed": _seed(result),
        "method": subject.method,
        "line": subject.named(kind),
        "lambda": lam,
        "is_swept": bool(subject.settings),
        "dataset": dataset,
        "tests": tests,
        "units": units,
    }


def _loss_row(result: Result) -> Row:
    of_rows = result.values(LOSS_TESTS)
    row = _row_of(result, of_rows.dataset, LOSS_TESTS, len(of_rows.values))
    return row | mean_interval(of_rows.values, of_rows.weights)


def _score_row(result: Result, tests: str, loss: float | None) -> Row:
    score = result.scores[tests]
    row = _row_of(result, result.row.dataset, tests, result.content["dataset"]["problems"])
    return row | {
        "value": score["pass@1"],
        "low": score["low"],
        "high": score["high"],
        "loss": loss,
    }


def _router_rows(name: str, lines: Sequence[dict]) -> Iterator[Row]:
    for line in _thinned(lines):
        changed = line.get("noise_changed")
        yield {
            "training": name,
            "step": line["step"],
            "entropy": mean(line["entropy"]),
            "noise_changed": mean(changed) if changed else None,
        }


def _spread_rows(name: str, content: dict) -> Iterator[Row]:
    for row in content["layers"]:
        if row["spread"] is not None:
            yield {"mixture": name, "layer": row["layer"], "spread": 100 * row["spread"]}


def is_own(folder: Path, file: Path) -> bool:
    """Whether a file lies in a results folder, or is a link from there into a store."""
    place = Path(os.path.realpath(file))
    return place.is_file() and (place.is_relative_to(os.path.realpath(folder)) or in_store(place))


def own_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a results folder that fit a pattern."""
    return [file for file in sorted(folder.glob(pattern)) if is_own(folder, file)]


@contextmanager
def _written_by(step: str, file: Path) -> Iterator[None]:
    """Raise UserError where the values of a file are not those that the step writes."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise UserError(f"{file} is not what step {step} writes: {error!r:.200}") from None


def _seed(result: Result) -> str:
    return "" if result.seed is None else str(result.seed)


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


def _options(section: type, job: Mapping) -> object:
    """The options of an artifact as an object of their section of the configuration."""
    known = job["parameters"]
    return section(**{key: known[key] for key in keys(section) if key in known})


def _seconds(jobs: Iterable[Mapping]) -> float:
    return sum(job["seconds"] for job in jobs)
