"""Hours and disk space of all runs together, for `xft plan`, and of what a run still makes."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from xft.common.errors import counted
from xft.common.file_access import nearest_folder
from xft.config.models import MODEL_KINDS
from xft.config.sections import problem_label
from xft.config.steps import STEPS, TRAINING_SECTIONS
from xft.dag.experiment import Experiment
from xft.dag.job_resources import of_mixture, requests
from xft.dag.measured import FindPlan, hours_of
from xft.dag.node import Node
from xft.dag.run import WorkflowRun
from xft.estimates.disk import artifact_bytes, checkpoint_bytes
from xft.estimates.flops import tuning_ratio
from xft.estimates.jobs import configured_job
from xft.estimates.parameters import Models
from xft.estimates.report import Plan, disk_text, duration, table


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
    space = _space({node: plan.models for node, plan in nodes.items()})
    return Totals(len(experiment.runs), hours, space)


def warn_of_full_disk(run: WorkflowRun, to_make: Iterable[Node]) -> str | None:
    """A line with both numbers if a run may need more disk space than is free, or None.

    None also while the size of the base is unknown.
    """
    models = {node: requests(node).models for node in to_make if node.step in MODEL_KINDS[1:]}
    if None in models.values():
        return None
    store = run.store.root
    needed, free = _space(models).total(), shutil.disk_usage(nearest_folder(store)).free
    if needed <= free:
        return None
    return (
        f"WARNING: this run writes up to {disk_text(needed)}, and the disk of {store} has "
        f"{disk_text(free)} free. Make room, or set store to a folder on another disk"
    )


def _sums(pairs: Iterable[tuple]) -> tuple[float | None, float | None]:
    """The sums of the first and of the second numbers; None where one is unknown."""
    columns = zip(*pairs, strict=True)
    return tuple(None if None in column else sum(column) for column in columns)


def _space(nodes: dict[Node, Models]) -> Counter:
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
    step = STEPS[node.step]
    if step.generates and not step.minutes:
        datasets = plan.config.evaluation.datasets
        evaluated = [name for name in datasets if problem_label(name) == Path(node.name).stem]
        return plan.evaluation_hours(of_mixture(node), evaluated)
    if not step.section:
        return 0
    hours = plan.training_hours(step.section, expected)
    if hours is None or "match_flops" not in node.options:
        return hours
    options = plan.config
    return hours * tuning_ratio(plan.models, options.data.max_length, options.sft)
