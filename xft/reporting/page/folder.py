"""Reads what a results folder holds, for the page. What is missing is named and is no error.

The folder may be somebody else's: what leads out of it is not read.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
from xft.config.sections import TRAINING, MoeConfig, WorkflowConfig, problem_label
from xft.config.steps import COSTS, TRAINING_SECTIONS
from xft.estimates.jobs import TrainingJob, training_work
from xft.estimates.model_sizes import Models, ModelTable, read_table
from xft.estimates.rows import stored_lengths
from xft.evaluation.forms import load_problems
from xft.evaluation.result import samples_path, tests_of
from xft.hub.named_sets import NAMED_SETS
from xft.reporting.comparisons import read_comparisons
from xft.reporting.conclusions import read_conclusions
from xft.reporting.names import without_lambda
from xft.reporting.run_table import LOSS_TESTS, Result, read_runs
from xft.reporting.statistics import mean_interval
from xft.reporting.summaries import OWN, Summary
from xft.reporting.swept import find_grids, find_lines
from xft.reporting.verdict import BASE, label_family
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
    """What a model wrote for a problem.

    failed_call: the first call that went wrong, or None.
    """

    status: str
    code: str
    failed_call: str | None


class Folder:
    """The contents of a results folder, also of an unfinished run. What it does not have is empty.

    Parts whose keys are listed are lists of dictionaries.

    summary: of its table of runs. text: summary.md.
    conclusions: what the summary of a finished run says; else None. comparisons: its pairs.
    swept, grids: what was measured with the values of swept keys.
    values: label, method, model, seed, dataset, tests, units; the label without lambda as line,
    lambda, whether the model depends on swept keys; the share of solved problems in percent, or the
    loss on validation rows, with its interval, low to high; for a share the loss too.
    solutions: by data set, problem and model. prompts: by data set and problem.
    curves: training, step, loss, smoothed, learning_rate.
    routers: training, step, entropy, noise_changed.
    loads: training, layer, expert, load (1: an equal part).
    shares: merge, layer, expert, share (1: an equal one).
    spreads: mixture, layer, spread.
    rows: the reports of the rows, by name. versions: of packages.
    config: as YAML, without keys that change no result. chosen: its values that are no defaults.
    jobs: job, and as `total_cost` reads them; the longest first.
    made: the kind, inputs (ids) and parameters of each artifact, with its job, by id.
    models: the ids of the evaluated models, by label and seed.
    flops: of all trainings that a model comes from, by label and seed.
    missing: sentences. unfinished: those about what each finished run has.

    Raises UserError if there is no such folder, or if a file in it is broken.
    """

    def __init__(self, path: Path):
        if not path.is_dir():
            raise UserError(f"there is no folder {path}. Name the results_dir of a run")
        self.path, self.missing, self.unfinished = path, [], []
        self.prompts = {}
        config = self._read_config()
        self._read_summary()
        self._read_results()
        if config:
            self._read_prompts(config)
        self._read_jobs()
        self._read_metrics()
        self._read_diversity()
        reports = self._by_variation("data/report.json")
        self.rows = {name: read_json(file) for name, file in reports}
        if not self.rows:
            self.missing.append("data/report.json: no rows were prepared")

    def _by_variation(self, name: str) -> Iterator[tuple[str, Path]]:
        """The files with a name, by the folders of a variant and seed, such as `seed~43`."""
        for file in own_files(self.path, f"**/{name}"):
            place = file.relative_to(self.path).as_posix().removesuffix(name).strip("/")
            yield place or OWN, file

    def _read_config(self) -> WorkflowConfig | None:
        self.config, self.chosen, file = "", {}, self.path / CONFIG_FILE
        with collecting_errors(self.missing):
            if file.exists() and not is_own(self.path, file):
                raise UserError(f"{CONFIG_FILE}: it leads out of the folder")
            config = recorded_config(self.path)
            self.config, self.chosen = as_yaml(shown_values(config)), shown_choices(config)
            return config

    def _read_summary(self) -> None:
        table, text = self.path / "runs.csv", self.path / "summary.md"
        self.text, rows = "", []
        if is_own(self.path, text):
            self.text = text.read_text(encoding="utf-8")
        if missing := [name for name in SUMMARY if not is_own(self.path, self.path / name)]:
            first = missing[0]
            self.unfinished.append(f"{first}: the run is not finished, or a link leads elsewhere")
        self.has_summary = not missing
        if is_own(self.path, table):
            rows = read_runs(table)
        else:
            self.unfinished.append("runs.csv: nothing was evaluated, or a link leads elsewhere")
        self.summary = Summary(rows, self._is_here)

    def _is_here(self, result: Result) -> bool:
        if is_own(self.path, result.file):
            return True
        subject = f"{result.subject.label}, {result.row.dataset}"
        self.unfinished.append(f"{result.file}: {result.step} of {subject} is not here")
        return False

    def _read_results(self) -> None:
        self.models, self.versions, self.solutions, self.values = {}, {}, {}, []
        for result in self.summary.losses:
            with _written_by(result.step, result.file):
                of_rows = result.values(LOSS_TESTS)
                self._take(result, of_rows.dataset, LOSS_TESTS, len(of_rows.values))
                self.values[-1] |= mean_interval(of_rows.values, of_rows.weights)
        for result in self.summary.evaluations:
            with _written_by(result.step, result.file):
                content = result.content
                self.versions |= content["versions"]
                self.models[result.subject.label, _seed(result)] = content["model"]["id"]
                loss = self.summary.loss(result.row)
                for tests in tests_of(content):
                    share, low, high, *_ = result.scores[tests].values()
                    self._take(result, result.row.dataset, tests, content["dataset"]["problems"])
                    self.values[-1] |= {"value": share, "low": low, "high": high, "loss": loss}
                self._read_solutions(result)
        self.conclusions, self.comparisons, self.swept, self.grids = None, [], [], []
        evaluations, losses = self.summary.evaluations, self.summary.losses
        if self.has_summary and evaluations:
            self.conclusions = read_conclusions(self.path / "summary.json")
            file = self.path / "comparisons.csv"
            with _written_by("summary", file):
                table = read_comparisons(file)
            self.comparisons = table.to_dict("records")
            self.swept = find_lines(evaluations, losses, table)
            self.grids = find_grids(evaluations, losses)

    def _take(self, result: Result, dataset: str, tests: str, units: int) -> None:
        """Begin a row of values."""
        subject = result.subject
        kind, lam = without_lambda(subject.model)
        row = {"label": subject.label, "model": subject.model, "seed": _seed(result)}
        row |= {
            "method": subject.method,
            "line": subject.named(kind),
            "lambda": lam,
            "is_swept": bool(subject.settings),
        }
        self.values.append(row | {"dataset": dataset, "tests": tests, "units": units})

    def _read_solutions(self, result: Result) -> None:
        name = result.subject.label + ("" if result.seed is None else f", seed {result.seed}")
        file = samples_path(result.file)
        samples = read_json_objects(file) if is_own(self.path, file) else ()
        codes = {line["task_id"]: line["solution"] for line in samples if line.get("number") == 0}
        problems = self.solutions.setdefault(result.row.dataset, {})
        for problem in result.content["problems"]:
            if problem["sample"] == 0:
                code = codes.get(problem["task_id"], "")
                solution = Solution(problem["plus"], code, problem["failed_call"])
                problems.setdefault(problem["task_id"], {})[name] = solution

    def _read_prompts(self, config: WorkflowConfig) -> None:
        """Take the prompts of the evaluated problems. No other file of the config is shown."""
        evaluated = {r.row.dataset: r.content["dataset"] for r in self.summary.evaluations}
        for name in config.evaluation.datasets:
            label = problem_label(name)
            if label not in evaluated:
                continue
            if name in NAMED_SETS:
                name = str(self.path / "problems" / NAMED_SETS[name].file)
            with collecting_errors(self.missing), errors_at(f"prompts of {label}"):
                problem_set = load_problems(name)
                if problem_set.sha256 != evaluated[label]["sha256"]:
                    raise UserError(f"{name} is not what was evaluated")
                self.prompts[label] = {p.task_id: p.prompt for p in problem_set.problems}

    # Trainings

    def _read_diversity(self) -> None:
        self.spreads = []
        for name, file in self._by_variation("diversity.json"):
            with _written_by("diversity", file):
                self.spreads += [
                    {"mixture": name, "layer": row["layer"], "spread": 100 * row["spread"]}
                    for row in read_json(file)["layers"]
                    if row["spread"] is not None
                ]

    def _read_metrics(self) -> None:
        self.curves, self.routers, self.loads, self.shares = [], [], [], []
        files = own_files(self.path, "metrics/**/*.jsonl")
        if not files:
            self.missing.append("metrics/: no training has begun")
        for file in files:
            name = file.relative_to(self.path / "metrics").with_suffix("").as_posix()
            with _written_by(name, file):
                lines = [line for line in read_json_objects(file, growing=True) if "loss" in line]
                self.curves.extend({"training": name} | point for point in _thinned(_curve(lines)))
                self._read_routers(name, with_routing(lines))
                if lines and "shares" in lines[-1]:
                    self._read_shares(name, lines[-1]["shares"])

    def _read_routers(self, name: str, lines: Sequence[dict]) -> None:
        for line in _thinned(lines):
            point = {"training": name, "step": line["step"], "entropy": mean(line["entropy"])}
            changed = line.get("noise_changed")
            self.routers.append(point | {"noise_changed": mean(changed) if changed else None})
        if lines and (layers := self._layers(name, len(lines[0]["load"]))):
            loads = np.mean([line["load"] for line in lines[-LAST_STEPS:]], axis=0)
            for (place, expert), load in np.ndenumerate(loads * loads.shape[1]):
                cell = {"layer": f"layer {layers[place]}", "expert": expert + 1}
                self.loads.append({"training": name} | cell | {"load": float(load)})

    def _layers(self, mixture: str, count: int) -> Sequence[int]:
        """The numbers of the layers with experts; none if the mixture is not there, or not yet."""
        config = self.path / mixture / "config.json"
        is_here = is_own(self.path, config)
        return (read_json(config)["upcycled_layers"] or range(count)) if is_here else ()

    def _read_shares(self, name: str, shares: list) -> None:
        """Take the shares of the routed experts, relative to an equal one.

        shares: [layers, sets, experts]. A layer has one set, or one for each projection. All layers
        may have one set together.
        """
        count = len(shares) if len(shares) > 1 else 0
        mixed = (artifact for artifact in self.made.values() if artifact["job"] == name)
        mixture = next((self.made.get(artifact["inputs"]["moe"]) for artifact in mixed), None)
        layers = self._layers(mixture["job"], count) if mixture else ()
        for place, sets in enumerate(shares):
            layer = "all upcycled layers" if len(shares) == 1 else f"upcycled layer {place + 1}"
            layer = f"layer {layers[place]}" if len(layers) == len(shares) else layer
            parts = PROJECTIONS if len(sets) == len(PROJECTIONS) else range(1, len(sets) + 1)
            for part, of_set in zip(parts, sets, strict=True):
                cell = {"merge": name, "layer": f"{layer}, {part}" if len(sets) > 1 else layer}
                for expert, share in enumerate(of_set, start=1):
                    self.shares.append(cell | {"expert": expert, "share": share * len(of_set)})

    # Costs

    def _read_jobs(self) -> None:
        self.jobs, self.made, self.flops = [], {}, {}
        for file in own_files(self.path, f"{COSTS}/**/*.{COSTS_FILE}"):
            with _written_by("store.make", file):
                name = file.relative_to(self.path / COSTS).as_posix()
                self.jobs.append({"job": name.removesuffix(f".{COSTS_FILE}")} | total_cost(file))
        self.jobs.sort(key=lambda job: -job["seconds"])
        with collecting_errors(self.missing):
            for job in self.jobs:
                for name in (job["job"], f"{job['job']}.json"):
                    if is_own(self.path, file := manifest_path(self.path / name)):
                        manifest = read_manifest(file)
                        known = {key: getattr(manifest, key) for key in MADE}
                        self.made[manifest.id] = job | known
            dense = (job["job"] for job in self.made.values() if job["kind"] in DENSE)
            if name := next(dense, None):
                base = read_table(self.path / name)
                for model, artifact in self.models.items():
                    if artifact in self.made:
                        self.flops[model] = self.flops_to_make(base, artifact)

    def made_from(self, artifact: str) -> list[dict]:
        """What made an artifact and all that it depends on."""
        chain = [artifact]
        for key in chain:  # it grows
            inputs = self.made[key]["inputs"].values()
            chain += [i for i in inputs if i in self.made and i not in chain]
        return [self.made[key] for key in chain]

    def flops_to_make(self, base: ModelTable, artifact: str) -> int | None:
        """The FLOPs of all trainings that an artifact comes from, with rows as they are.

        None if a training does not say what it did: another trainer or another version made it.
        """
        jobs = self.made_from(artifact)
        with suppress(LookupError, ValueError):
            moe = [_options(MoeConfig, job) for job in jobs if job["kind"] == "moe"]
            models = Models(base, *moe[:1] or [MoeConfig()])
            trained = [job for job in jobs if job["kind"] in TRAINING_SECTIONS]
            return sum(self._flops(models, job) for job in trained)
        return None

    def _flops(self, models: Models, job: Mapping) -> int:
        section = TRAINING_SECTIONS[job["kind"]]
        options, length = _options(TRAINING[section], job), job["parameters"]["max_length"]
        lengths = stored_lengths(self.path / self.made[job["inputs"]["tokens"]]["job"])
        launch, processes = options.launch, options.world_size
        training = TrainingJob(section, options, length, launch, processes, on_gpu=False)
        return training_work(models, training.with_rows(lengths), lengths.rows).flops

    def spent(self) -> dict:
        """The seconds that the tuned models of the verdict took, and their evaluation; nothing if
        the folder does not hold it.
        """
        labels = [label for label in self.conclusions.verdict.pair if label_family(label) != BASE]
        models = [
            {key for (name, _), key in self.models.items() if name == label and key in self.made}
            for label in labels
        ]
        if not models or not all(models):
            return {}
        times = [mean(_seconds(self.made_from(key)) for key in keys) for keys in models]
        tuned = set.union(*models)
        evaluations = (job for job in self.made.values() if job["kind"] == "eval")
        evaluated = [job for job in evaluations if job["inputs"]["model"] in tuned]
        return {"models": dict(zip(labels, times, strict=True)), "evaluation": _seconds(evaluated)}


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
