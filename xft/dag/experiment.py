"""All runs of a configuration: the artifacts that they share, the jobs, hours and disk space."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from xft.artifacts.artifact import ENTRY_FILE
from xft.artifacts.manifest import SAFETENSORS
from xft.checkpoints.model_files import INDEX_FILE
from xft.cli.step import to_flags
from xft.common.errors import UserError, counted
from xft.common.results_folder import CONFIG_FILE, CONFIG_HEAD
from xft.config.reading import as_yaml, shown_choices
from xft.config.runs import Run
from xft.config.sections import MODEL_KINDS, WorkflowConfig, problem_label
from xft.config.steps import ARTIFACT, COSTS, STEPS, TRAINING_SECTIONS
from xft.dag.choices import Methods, methods_of
from xft.dag.graph import Graph
from xft.dag.job_resources import of_mixture, resources
from xft.dag.nodes import FileContents, Input, Node, Nodes, made, with_results
from xft.estimates.jobs import configured_job
from xft.estimates.memory_and_disk import artifact_bytes, checkpoint_bytes
from xft.estimates.model_sizes import Models, tuning_ratio
from xft.estimates.planning import Plan, disk_text, duration, table
from xft.reporting.run_table import MEASURED, RunRow, swept_text, write_runs
from xft.store import others
from xft.store.code import Code
from xft.store.job_records import COSTS_FILE, VIEW, Job, total_cost
from xft.store.store import PARTIAL, Store, fetched, is_whole

RUNS_TABLE = "runs.csv"
READ_INSIDE = ("", "config.json", INDEX_FILE)  # of an artifact, by the report; "": what is a file
FindPlan = Callable[[WorkflowConfig], Plan]


class Experiment:
    """The artifacts that all runs of a configuration want.

    evaluated: the graphs of what is evaluated: all runs, or their methods at chosen settings.
    """

    def __init__(self, config: WorkflowConfig, runs: list[Run], contents: FileContents):
        """Raises UserError if two different sets of problems have the same name."""
        self.config = config
        self.results, self.store = Path(config.results_dir), Store(Path(config.store))
        self.publish = config.publish
        self.code = Code(contents.file_hashes)
        self.nodes = Nodes(self.store, contents, self.code)
        chooses = config.choose is not None
        self.graphs = [Graph(run, self.nodes) for run in runs]
        self._find_seeds()
        self._check_problem_sets()
        methods = methods_of(self.graphs, self.nodes) if chooses else []
        self.evaluated: list[Graph | Methods] = methods or self.graphs

    def _find_seeds(self) -> None:
        """Let each run know those that differ from it in the seed alone."""
        groups: dict[str, list[Graph]] = {}
        for graph in self.graphs:
            key = graph.config.model_copy(update={"seed": 0}).model_dump_json()
            graph.of_seeds = groups.setdefault(key, [])
            graph.of_seeds.append(graph)

    def _check_problem_sets(self) -> None:
        names: dict[str, str] = {}
        for config in (self.config, *(graph.config for graph in self.graphs)):
            for name in [*config.evaluation.datasets, *config.data.decontaminate_against]:
                label = problem_label(name)
                if names.setdefault(label, name) != name:
                    raise UserError(
                        f"config: the problems {names[label]} and {name} would both have the name "
                        f"{label} in the results. Rename a file"
                    )

    @cached_property
    def wanted(self) -> list[Node]:
        """All artifacts that a run of the workflow makes, each after those that it is made from."""
        return list(self.report.ancestors())

    @cached_property
    def known(self) -> list[Node]:
        """All wanted artifacts, and what a user may ask for by name: the models of each run, and
        the results from which choices take.
        """
        targets = [model for graph in self.graphs for model in graph.main_models()]
        targets += with_results(self.wanted)
        nodes = (node for target in targets for node in target.ancestors())
        return list(dict.fromkeys([*self.wanted, *nodes]))

    @cached_property
    def tried(self) -> set[Node]:
        """What choices are made from. A training that diverges there leaves a setting out."""
        choices = (node for node in self.wanted if node.step == "choose")
        return {
            node for choice in choices for source in choice.sources for node in source.ancestors()
        }

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """The known artifacts by their names in the results folder."""
        return {name: node for node in self.known for name in node.names}

    @cached_property
    def shown(self) -> dict[Node, str]:
        """The results that the summary shows, each with its name."""
        return {
            node: node.name
            for graph in self.evaluated
            for label in graph.problem_sets
            for model in graph.models()
            for node in graph.measured(model, label).values()
        }

    @cached_property
    def rows(self) -> list[RunRow]:
        """The rows of the table of runs, which name the files of the store.

        A run has a row for each model that it shares with another run which evaluates it, too. The
        runs with the configuration's own values come first: they are references of the others.
        """
        graphs = sorted(self.evaluated, key=lambda graph: not graph.run.changes.keys() <= {"seed"})
        models = dict.fromkeys(model for graph in graphs for model in graph.models())
        return [
            RunRow(
                model=str(model),
                variant=graph.run.name,
                control=graph.run.control,
                plain_variant=graph.run.variant,
                own_name=graph.run.own_name,
                swept=swept_text(graph.run.swept),
                seed=graph.config.seed,
                dataset=label,
                **{step: node.place for step, node in files.items() if node in self.shown},
            )
            for graph in graphs
            for label in graph.problem_sets
            for model in models
            if (files := graph.measured(model, label))["eval"] in self.shown
        ]

    def table(self, folder: Path) -> str:
        """The table of runs as CSV, with paths as seen from a folder."""
        rows = []
        for row in self.rows:
            files = {step: Path(os.path.relpath(file, folder)) for step, file in row.files.items()}
            rows.append(row.model_copy(update=files))
        return write_runs(rows)

    @cached_property
    def summary(self) -> Node:
        """The tables of results. Their recipe holds the names that they show."""
        shown = [
            row.model_dump(mode="json", exclude={*MEASURED}) | {"files": sorted(row.files)}
            for row in self.rows
        ]
        select = self.config.merge.select
        options = {"rows": shown, "chosen_by": None if select == "auto" else select}
        inputs = [
            made("results", node, "", {f"results {n}": node.digest})
            for n, node in enumerate(self.shown)
        ]
        return self._of_all_runs("summary", options, inputs, {"chosen_by": options["chosen_by"]})

    @cached_property
    def report(self) -> Node:
        """The page about the results. Its recipe holds the configuration that it shows."""
        options = {"config": shown_choices(self.config)}
        return self._of_all_runs("report", options, [made("summary", self.summary, "")], {})

    @property
    def ends(self) -> list[Node]:
        """What a run makes in the end."""
        return [self.summary, self.report]

    def _of_all_runs(self, step: str, chosen: dict, inputs: list[Input], flags: dict) -> Node:
        run, file = Run(self.config), STEPS[step].file
        return self.nodes.get(step, chosen, inputs, run=run, file=file, flags=flags, names=[file])


def page_reads(step: str, files: Mapping[str, dict]) -> dict[str, dict]:
    """Those of the files of an entry, as `Manifest.files`, that the report reads.

    Of weights it reads the header.
    """
    read = {}
    for file, stated in files.items():
        inside = file.partition("/")[2]
        is_header = file.endswith(SAFETENSORS) and step != "tokens"
        is_read = is_header or step == "tokens" or inside in READ_INSIDE
        if is_read and file != ENTRY_FILE:
            read[file] = stated | {"is_header": is_header}
    return read


def find_jobs(experiment: Experiment, to_make: Collection[Node]) -> dict[str, Job]:
    """The jobs by the digest of what they make. to_make: what the run makes."""
    jobs = {node.digest: _job(node, experiment, to_make) for node in experiment.known}
    report = experiment.report
    jobs[report.digest] = _report_job(jobs[report.digest], experiment, to_make)
    return jobs


def _report_job(job: Job, experiment: Experiment, to_make: Collection[Node]) -> Job:
    """The job of the report, which reads what there is of the results, by their names.

    What somebody removed is not made again for it, nor are merges that are not kept.
    """
    shown = [
        str(entry)
        for node in experiment.report.ancestors()
        if (node in to_make or is_whole(node.entry) or fetched(node.entry).is_dir())
        and (entry := _shown(node, to_make)) != experiment.report.entry
        and not node.is_temporary
    ]
    view = Path(f"{experiment.report.entry}{PARTIAL}", VIEW)
    texts = {
        f"{VIEW}/{CONFIG_FILE}": CONFIG_HEAD + as_yaml(experiment.config.model_dump()),
        f"{VIEW}/{RUNS_TABLE}": experiment.table(view),
    }
    inputs = job.inputs | {"shown": shown}
    return replace(job, inputs=inputs, texts=texts, shows=experiment.config.results_dir)


def _shown(node: Node, to_make: Collection[Node]) -> Path:
    """The entry of an artifact, or what was fetched of it, if no more is needed."""
    part = fetched(node.entry)
    is_part = node not in to_make and not is_whole(node.entry) and part.is_dir()
    return part if is_part else node.entry


def _job(node: Node, experiment: Experiment, to_make: Collection[Node]) -> Job:
    files = [path for item in node.inputs if item.node is None for path in item.paths]
    results, log = experiment.config.results_dir, experiment.store.log(node.step, node.digest)
    texts = dict(node.texts)
    if node.step == "summary":
        texts[RUNS_TABLE] = experiment.table(node.entry)
    inputs: dict[str, list[str]] = {}
    for item in node.inputs:
        if item.paths:  # a value, such as lambda, has none
            inputs.setdefault(item.name, []).extend(item.paths)
    logs = {f"{results}/logs/{_stem(node, name)}.log": str(log) for name in node.names}
    return Job(
        name=node.name,
        recipe=node.recipe,
        inputs=inputs,
        flags=to_flags(node.flags),
        resources=resources(node),
        links={
            os.path.normpath(f"{results}/{name}"): place
            for name, place in _links(node, _shown(node, to_make))
        },
        logs={os.path.normpath(name): target for name, target in logs.items()},
        texts=texts,
        contents={file: experiment.nodes.contents.of_file(file) for file in files},
        publish=experiment.publish if others.is_shared(node) else None,
        one_of=[result.digest for result in node.one_of],
        may_diverge=node in experiment.tried,
    )


def _links(node: Node, entry: Path) -> Iterator[tuple[str, str]]:
    """Each name of an artifact and of what belongs to it, with its place in an entry."""
    for name in node.names:
        yield name, str(entry / node.file)
        yield f"{name}.manifest.json", f"{entry / node.file}.manifest.json"
        yield f"{COSTS}/{_stem(node, name)}.{COSTS_FILE}", str(entry / COSTS_FILE)
        prefix = name.removesuffix(node.step)
        for pattern, file in STEPS[node.step].beside.items():
            beside = pattern.format(name=name, prefix=prefix, stem=_stem(node, name))
            yield beside, str(entry / file)


def _stem(node: Node, name: str) -> str:
    """A name without the suffix of a file."""
    return name if node.file == ARTIFACT else name.rpartition(".")[0]


@dataclass(frozen=True)
class Totals:
    """The jobs of all runs. What runs share counts once.

    runs: their number. hours: of each job, expected and at most, by rule; None where they are
    unknown, 0 for jobs of minutes. space: bytes on the disk, by rule.
    """

    runs: int
    hours: dict[str, list[tuple[float | None, float | None]]]
    space: Counter

    @property
    def all_hours(self) -> tuple[float | None, float | None]:
        """Hours of all jobs, one after the other: expected and at most."""
        return _sums(pair for pairs in self.hours.values() for pair in pairs)

    @property
    def slowest(self) -> tuple[str, tuple[float, float]] | None:
        """The rule of the longest job, and its hours; None if those of one are unknown."""
        jobs = [(rule, pair) for rule, pairs in self.hours.items() for pair in pairs]
        is_known = all(None not in pair for _, pair in jobs)
        return max(jobs, key=lambda job: job[1]) if is_known else None

    def lines(self) -> list[str]:
        """The jobs of each rule, their hours and their disk space, for `xft plan`."""
        count = sum(map(len, self.hours.values()))
        rows = [
            (rule, f"{len(pairs):,}", *map(duration, _sums(pairs)), disk_text(self.space[rule]))
            for rule, pairs in self.hours.items()
        ]
        whole = ("all", f"{count:,}", *map(duration, self.all_hours))
        return [
            f"All jobs of {counted(self.runs, 'run')}; what runs share is counted once",
            *table([("", "jobs", "hours", "at most", "disk"), *rows, (*whole, self.disk)]),
            "  hours: one after the other, of trainings, of evaluations, and of what ran before",
            "  disk: with checkpoints of the largest training; more if several run at once",
            "  jobs: snakemake counts one more, all, which makes nothing",
        ]

    @property
    def disk(self) -> str:
        return disk_text(self.space.total())


def hours_of(entry: Path) -> float | None:
    """The hours that an entry's job took in all its attempts; None if nothing says it."""
    cost = cost_of(entry)
    return cost and cost["seconds"] / 3600


def cost_of(entry: Path) -> dict | None:
    """What an entry's job cost, as `total_cost` gives it; None if nothing says it."""
    with suppress(UserError, LookupError, TypeError):
        return total_cost(entry / COSTS_FILE)


def totals(experiment: Experiment, plan_of: FindPlan, is_measured: bool) -> Totals:
    """The jobs of all runs.

    plan_of: gives the plan for a run's configuration. is_measured: whether jobs in the store count
    as long as they took.
    """
    nodes = {node: plan_of(node.config) for node in experiment.wanted}
    hours = defaultdict(list)
    for node, plan in nodes.items():
        took = hours_of(node.entry) if is_measured else None
        pair = (_hours(node, plan, True), _hours(node, plan, False)) if took is None else [took] * 2
        hours[node.step].append(tuple(pair))
    space = disk_space({node: plan.models for node, plan in nodes.items()})
    return Totals(len(experiment.graphs), hours, space)


def _sums(pairs: Iterable[tuple]) -> tuple[float | None, float | None]:
    """The sums of the first and of the second numbers; None where one is unknown."""
    columns = zip(*pairs, strict=True)
    return tuple(None if None in column else sum(column) for column in columns)


def disk_space(nodes: dict[Node, Models]) -> Counter:
    """Bytes of the artifacts of each rule, with the largest checkpoints of a training."""
    space, checkpoints = Counter(), []
    for node, models in nodes.items():
        if not node.is_temporary:  # a merge that is not kept takes no space in the end
            space[node.step] += artifact_bytes(models, node.step)
        section = TRAINING_SECTIONS.get(node.step)
        if section and node.step in MODEL_KINDS:
            job = configured_job(node.config, section)
            checkpoints.append((checkpoint_bytes(models, job), node.step))
    if checkpoints:
        largest, step = max(checkpoints)
        space[step] += largest
    return space


def _hours(node: Node, plan: Plan, expected: bool) -> float | None:
    """Hours of a job; None if they are unknown, 0 if a job takes minutes."""
    if node.one_of:
        node = node.one_of[0]
    step = STEPS[node.step]
    if step.generates and not step.minutes:
        datasets = plan.config.evaluation.datasets
        evaluated = [name for name in datasets if problem_label(name) == Path(node.name).stem]
        return plan.evaluation_hours(of_mixture(node), evaluated)
    if not step.section:
        return 0
    if "match_flops" in node.flags:
        return _hours_at_equal_flops(plan, expected)
    return plan.training_hours(step.section, expected)


def _hours_at_equal_flops(plan: Plan, expected: bool) -> float | None:
    """Hours of `sft_flops`; None if they are unknown."""
    options = plan.config.sft_flops
    with_its_rows = replace(plan, config=plan.config.model_copy(update={"sft": options}))
    hours = with_its_rows.training_hours("sft", expected)
    if hours is None:
        return None
    return hours * tuning_ratio(plan.models, plan.config.data.max_length, options)
