"""Estimate the memory, disk space and time that a configuration needs.

The plan reads the base's config.json, and the headers of its weights if they are on this machine.
Of rows that are here it takes the lengths, and of jobs in the store what they cost. Keys that the
configuration leaves out have their documented defaults. docs/planning.md explains each figure.
"""

import argparse
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from math import inf
from pathlib import Path

from xft.artifacts.artifact import ENTRY_FILE
from xft.cli.step import StepParser
from xft.common.errors import UserError
from xft.common.json_files import read_json
from xft.config.reading import complete, naming
from xft.config.runs import Run, examine_runs, find_runs, overlaid, read_overlaid
from xft.config.section import Section
from xft.config.sections import WorkflowConfig
from xft.config.steps import STEPS, TRAINING_SECTIONS
from xft.config.training import TrainingConfig
from xft.dag.experiment import Experiment
from xft.dag.graph import Graph
from xft.dag.input_checks import check_number_of_rows, faults_of_code, faults_of_sets
from xft.dag.job_resources import row_lengths
from xft.dag.nodes import FileContents, NoContents, Node, with_results
from xft.dag.problem_checks import check_problems, missing_sets, missing_toolchains
from xft.dag.totals import FindEstimate, Totals, cost_of, totals
from xft.dag.workflow_run import HASHES_FILE
from xft.estimates.jobs import CPU, DEFAULT_UTILISATION, GIB, GPUS, Processor, this_gpu
from xft.estimates.memory_and_disk import bytes_beside_torch
from xft.estimates.model_sizes import Models, find_table
from xft.estimates.planning import Estimate, MeasuredMemory, advice, fit_line, report, time_text
from xft.estimates.rows import count_rows
from xft.store.file_hashes import FileHashCache
from xft.store.store import Recipe, is_whole

DEFAULT_GPU = "h100"
SPEED = "results/speed"  # folder of the results of a measurement
SHORT = {"max_steps": 30, "warmup_steps": 1}  # the training of one
ASSUMED = f"Default: {DEFAULT_UTILISATION}, an assumption."
MEASURED = "Default: what jobs in the store reached, if this machine is planned for."


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    values, where = read_overlaid(args.config)
    runs = find_runs(values, where)
    config = complete(values, where)
    experiment = find_experiment(config, runs)
    with naming(where):
        _check_names(experiment)
        estimate_of = planner(args, experiment)
        is_here = _is_this_machine(args, config)
        estimate = estimate_of(config)
        jobs = totals(experiment, estimate_of, is_here)
        check_problems(with_results(experiment.wanted))
        if estimate.rows:
            check_number_of_rows(config, estimate.rows)
    print("\n".join(answer(estimate, jobs, args.config)))
    if is_here:
        _tell_of_this_machine(experiment)
    if args.details:
        print("\n" + report(estimate, jobs.disk), *advice(estimate), "", *jobs.lines(), sep="\n")
    else:
        print(f"Everything else: xft plan {shlex.join(argv or sys.argv[1:])} --details")


def _tell_of_this_machine(experiment: Experiment) -> None:
    """Print how many jobs are finished here, and what is missing."""
    kept = [node for node in experiment.wanted if not node.is_temporary]
    finished = sum(is_whole(node.entry) for node in kept)
    if finished:
        print(f"Finished: {finished} of {len(kept)} jobs. They count as long as they took")
    for fault in missing_toolchains(experiment.wanted) + missing_sets(kept):
        print(f"Missing here: {fault}")


def _check_names(experiment: Experiment) -> None:
    """Raise UserError if a problem set or code of the user's can be nowhere."""
    faults = []
    for graph in experiment.graphs:
        sections = dict(graph.config)
        faults += faults_of_sets(sections)
        faults += faults_of_code(sections)
    if faults:
        raise UserError("\n".join(dict.fromkeys(faults)))


def answer(estimate: Estimate, jobs: Totals, files: list[Path]) -> list[str]:
    """The plan in four lines. jobs: the totals. files: of the configuration."""
    time = f"{time_text(*jobs.all_hours)}, for all jobs one after the other"
    slowest = "?"
    if jobs.slowest is not None:
        rule, hours = jobs.slowest
        slowest = f"{rule}, {time_text(*hours)}"
    if None in jobs.all_hours:
        needed = "the number of problems, which are elsewhere"
        if estimate.rows is None:
            needed = "the number of rows: give it with --rows"
        if not estimate.processor.bf16:
            section = (*estimate.trainings, "moe_sft")[0]
            needed = f"the speed of the device. To measure it: {speed_command(section, files)}"
        time = f"? It depends on {needed}"
    return [
        fit_line(estimate),
        f"Time: {time}",
        f"Slowest job: {slowest}",
        f"Disk: {jobs.disk} at most",
    ]


def speed_command(section: str, files: list[Path]) -> str:
    """The command that measures the speed of this machine by one short training, for later plans.

    section: of the training. files: of the configuration, which may want several such trainings.
    """
    values, where = read_overlaid(files)
    settings = {"results_dir": SPEED, section: SHORT}
    if examine_runs(overlaid(values, settings), where).faults:  # such as a longer warm-up in sweep
        del settings[section]
    measured = overlaid(values, settings)
    experiment = find_experiment(complete(measured, where), find_runs(measured, where))
    trainings = (node for node in experiment.wanted if STEPS[node.step].section == section)
    target = f"{SPEED}/{next(trainings).name}"
    command = f"snakemake {shlex.quote(target)} --cores all"
    command += f" --configfile {shlex.join(map(str, files))} --config results_dir={SPEED}"
    if section in settings:
        short = ", ".join(f"{key}: {value}" for key, value in SHORT.items())
        command += f" '{section}={{{short}}}'"
    return command


def find_experiment(config: WorkflowConfig, runs: list[Run]) -> Experiment:
    """The artifacts that a configuration wants. Files that are elsewhere count as unknown."""
    hashes = FileHashCache(Path(config.store, HASHES_FILE))
    try:
        experiment = Experiment(config, runs, FileContents(hashes))
        experiment.wanted  # noqa: B018 (it reads the files)
    except (UserError, OSError):
        return Experiment(config, runs, NoContents())
    return experiment


def _parser() -> argparse.ArgumentParser:
    parser = StepParser("xft plan", __doc__)
    parser.configs("The configuration", required=True)
    parser.add_argument(
        "--gpu",
        choices=GPUS,
        metavar="GPU",
        help=f"The type of GPU: {', '.join(GPUS)}. For another one name the most similar, and give "
        f"--flops. Default: this machine's; without one {DEFAULT_GPU} if the config asks for GPUs, "
        "else the CPU.",
    )
    for flag, kind, meaning in (
        ("--gpus", int, "Number of GPUs. Default: as in the config."),
        ("--mfu", float, f"The share of a GPU's peak FLOPs that a training reaches. {ASSUMED}"),
        ("--flops", float, f"FLOPs that each process reaches, instead of --mfu. {MEASURED}"),
        ("--rows", int, "Number of rows, in place of counting those of data.train."),
    ):
        parser.add_argument(flag, type=kind, help=meaning, metavar="N" if kind is int else "X")
    parser.add_argument("--details", action="store_true", help="Print all figures.")
    parser.set_defaults(mfu=DEFAULT_UTILISATION)
    model_config = "The base's config.json, if this machine cannot reach the model."
    parser.path("--model-config", "FILE", model_config, required=False)
    return parser


def planner(args: argparse.Namespace, experiment: Experiment) -> FindEstimate:
    """A function that gives the plan for a configuration of the experiment's.

    Files are read once for all of them. Raises UserError.
    """
    for name, most in {"gpus": inf, "rows": inf, "flops": inf, "mfu": 1}.items():
        value = getattr(args, name)
        if value is not None and not 0 < value <= most:
            limit = " and at most 1" if most == 1 else ""
            raise UserError(f"--{name} = {value:g}: must be greater than 0{limit}")

    known: dict[str, object] = {}
    gpu_here = None if args.gpu else this_gpu()
    rules = {node.step for node in experiment.wanted}
    trainings = tuple(name for rule, name in TRAINING_SECTIONS.items() if rule in rules)

    def once(make, section: Section, *given):
        """The value of a function for a section, computed once unless it is empty."""
        key = repr(section)
        if not known.get(key):
            known[key] = make(section, *given)
        return known[key]

    def make(config: WorkflowConfig) -> Estimate:
        models = Models(once(find_table, config.base, args.model_config), config.moe)
        lengths = row_lengths(Graph(Run(config), experiment.nodes).tokens)
        rows = once(count_rows, config.data, args.rows)
        device = _device(args, config, gpu_here)
        return Estimate(config, models, rows, *device, args.gpus, trainings, lengths)

    estimate_of = partial(once, make)
    if not _is_this_machine(args, experiment.config):
        return estimate_of
    reached, memories = _measured(experiment.wanted, estimate_of)
    speed = next(iter(reached.values()), None)

    def measured(config: WorkflowConfig) -> Estimate:
        estimate = estimate_of(config)
        processor = estimate.processor
        if speed is not None:
            processor = replace(processor, bf16=speed, fp32=speed)
        return replace(estimate, processor=processor, speeds=reached, memories=memories)

    return measured


def _measured(
    nodes: Iterable[Node], estimate_of: FindEstimate
) -> tuple[dict[str, float], dict[str, MeasuredMemory]]:
    """FLOPs a second of a process, and what it took of a GPU, by the section of a training: of the
    longest job in the store.

    It has the same inputs as one of these nodes, such as a training with fewer steps. The time to
    start counts. The longest job's section is first.
    """
    longest: dict[str, tuple[float, float]] = {}
    memories: dict[str, MeasuredMemory] = {}
    recipes = cache(lambda folder: [*_recipes(folder)])
    for node in nodes:
        section = TRAINING_SECTIONS.get(node.step)
        if section is None or "match_flops" in node.flags:
            continue
        for recipe, cost in recipes(node.entry.parent):
            options = _options(recipe, node, section)
            hours = cost["seconds"] / 3600
            if options is None or hours <= longest.get(section, (0, 0))[0]:
                continue
            config = node.config.model_copy(update={section: options})
            estimate = replace(estimate_of(node.config), config=config, processes=None)
            work = estimate.work(section, expected=True)
            if work is not None:
                seconds = 3600 * hours * estimate.job(section).processes
                longest[section] = hours, work.flops / seconds
                memory = _measured_memory(estimate, section, cost)
                if memory is not None:
                    memories[section] = memory
    ordered = sorted(longest, key=lambda section: -longest[section][0])
    return {section: longest[section][1] for section in ordered}, memories


def _measured_memory(estimate: Estimate, section: str, cost: dict) -> MeasuredMemory | None:
    """The memory that a training took of a GPU; None if it had none. estimate: of that training."""
    if cost["gpu_reserved"] is None or not estimate.gpu:
        return None
    return MeasuredMemory(
        allocated=round(GIB * cost["gpu_allocated"]),
        reserved=round(GIB * cost["gpu_reserved"]),
        libraries=bytes_beside_torch(estimate.job(section)),
        estimate=estimate.peak(section, expected=True),
    )


def _recipes(folder: Path) -> Iterator[tuple[Recipe, dict]]:
    """The recipes of a step's entries whose cost is known, each with the cost."""
    for entry in folder.glob("*"):
        cost = cost_of(entry) if is_whole(entry) else None
        if cost is not None:
            yield Recipe(**read_json(entry / ENTRY_FILE)["recipe"]), cost


def _options(recipe: Recipe, node: Node, section: str) -> TrainingConfig | None:
    """The options of a training in the store; None if its inputs or threads are not a node's."""
    if recipe.inputs != node.recipe.inputs:
        return None
    if recipe.options.get("threads") != node.recipe.options.get("threads"):
        return None
    start = f"{section}."
    options = {}
    for key, value in recipe.options.items():
        if key.startswith(start):
            options[key.removeprefix(start)] = value
    with suppress(ValueError):
        return type(getattr(node.config, section))(**options)
    return None


def _is_this_machine(args: argparse.Namespace, config: WorkflowConfig) -> bool:
    """Whether the plan is for this machine, so that the costs of jobs in the store count."""
    if args.gpu or args.flops or args.gpus or args.mfu != DEFAULT_UTILISATION:
        return False
    return not config.gpus or this_gpu() is not None


def _device(args, config: WorkflowConfig, gpu_here) -> tuple[str | None, Processor]:
    """The type of GPU, None for the CPU, and the processor as a training uses it.

    gpu_here: the same for the GPU of this machine.
    """
    if gpu_here is not None:
        name, processor = gpu_here
    elif args.gpu or args.gpus or config.gpus:
        name = args.gpu or DEFAULT_GPU
        processor = GPUS[name]
    else:
        name, processor = None, CPU
    if args.flops:
        return name, replace(processor, bf16=args.flops, fp32=args.flops)
    return name, processor.reached(args.mfu)
