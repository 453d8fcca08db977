"""The jobs, the hours and the disk space of all runs of a configuration."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xft.common.errors import UserError, counted
from xft.config.sections import MODEL_KINDS, WorkflowConfig, dataset_name
from xft.config.steps import STEPS, TRAINING_SECTIONS
from xft.dag.experiment import Experiment
from xft.dag.job_resources import of_mixture
from xft.dag.nodes import Node
from xft.dag.step_jobs import STEP_JOBS
from xft.estimates.jobs import configured_job
from xft.estimates.memory_and_disk import artifact_bytes, checkpoint_bytes
from xft.estimates.model_sizes import Models, tuning_ratio
from xft.estimates.planning import Estimate, disk_text, duration, table
from xft.store.job_records import COSTS_FILE, total_cost

FindEstimate = Callable[[WorkflowConfig], Estimate]
Hours = tuple[float | None, float | None]  # expected and at most; None: unknown


@dataclass(frozen=True)
class Totals:
    """The jobs of all runs. What runs share counts once.

    runs: their number.
    hours: of each job, expected and at most, by rule; None where they are unknown, 0 for jobs of
    minutes.
    space: bytes on the disk, by rule.
    """

    runs: int
    hours: dict[str, list[Hours]]
    space: Counter

    @property
    def all_hours(self) -> Hours:
        """Hours of all jobs, one after the other: expected and at most."""
        return _sums(pair for pairs in self.hours.values() for pair in pairs)

    @property
    def slowest(self) -> tuple[str, tuple[float, float]] | None:
        """The rule of the longest job, and its hours; None if those of a job are unknown."""
        jobs = [(rule, pair) for rule, pairs in self.hours.items() for pair in pairs]
        if any(None in pair for _, pair in jobs):
            return None
        return max(jobs, key=lambda job: job[1])

    def lines(self) -> list[str]:
        """The jobs of each rule, their hours and their disk space, for `xft plan`."""
        rows = [("", "jobs", "hours", "at most", "disk")]
        for rule, pairs in self.hours.items():
            expected, most = _sums(pairs)
            disk = disk_text(self.space[rule])
            rows.append((rule, f"{len(pairs):,}", duration(expected), duration(most), disk))
        count = sum(len(pairs) for pairs in self.hours.values())
        expected, most = self.all_hours
        rows.append(("all", f"{count:,}", duration(expected), duration(most), self.disk))
        return [
            f"All jobs of {counted(self.runs, 'run')}; what runs share is counted once",
            *table(rows),
            "  hours: one after the other, of trainings, of evaluations, and of what ran before",
            "  disk: with checkpoints of the largest training; more if several run at once",
            "  jobs: snakemake counts one more, all, which makes nothing",
        ]

    @property
    def disk(self) -> str:
        return disk_text(self.space.total())


def totals(experiment: Experiment, estimate_of: FindEstimate, is_measured: bool) -> Totals:
    """The jobs of all runs.

    estimate_of: gives the estimate for a run's configuration.
    is_measured: whether jobs in the store count as long as they took.
    """
    estimates = {node: estimate_of(node.config) for node in experiment.wanted}
    hours = defaultdict(list)
    for node, estimate in estimates.items():
        took = hours_of(node.entry) if is_measured else None
        if took is None:
            hours[node.step].append((_hours(node, estimate, True), _hours(node, estimate, False)))
        else:
            hours[node.step].append((took, took))
    space = disk_space({node: estimate.models for node, estimate in estimates.items()})
    return Totals(len(experiment.graphs), hours, space)


def _sums(pairs: Iterable[Hours]) -> Hours:
    """The sums of the first and of the second numbers; None where one is unknown."""
    pairs = list(pairs)
    return _sum([expected for expected, _ in pairs]), _sum([most for _, most in pairs])


def _sum(hours: Sequence[float | None]) -> float | None:
    """The sum; None if one is unknown."""
    return None if None in hours else sum(hours)


def _hours(node: Node, estimate: Estimate, expected: bool) -> float | None:
    """Hours of a job; None if they are unknown, 0 if a job takes minutes."""
    if node.one_of:
        node = node.one_of[0]
    job = STEP_JOBS[node.step]
    if job.generates and not job.minutes:
        label = Path(node.name).stem
        datasets = estimate.config.evaluation.datasets
        evaluated = [name for name in datasets if dataset_name(name) == label]
        return estimate.evaluation_hours(of_mixture(node), evaluated)
    section = STEPS[node.step].section
    if not section:
        return 0
    if "match_flops" in node.flags:
        return _hours_at_equal_flops(estimate, expected)
    return estimate.training_hours(section, expected)


def _hours_at_equal_flops(estimate: Estimate, expected: bool) -> float | None:
    """Hours of `sft_flops`; None if they are unknown."""
    options = estimate.config.sft_flops
    with_its_rows = replace(estimate, config=estimate.config.model_copy(update={"sft": options}))
    hours = with_its_rows.training_hours("sft", expected)
    if hours is None:
        return None
    return hours * tuning_ratio(estimate.models, estimate.config.data.max_length, options)


def hours_of(entry: Path) -> float | None:
    """The hours that an entry's job took in all its attempts; None if nothing says it."""
    cost = cost_of(entry)
    if cost is None:
        return None
    return cost["seconds"] / 3600


def cost_of(entry: Path) -> dict | None:
    """The cost of an entry's job, as `total_cost` gives it; None if it is unknown."""
    try:
        return total_cost(entry / COSTS_FILE)
    except (UserError, LookupError, TypeError):
        return None


def disk_space(nodes: dict[Node, Models]) -> Counter:
    """Bytes of the artifacts of each rule, with the largest checkpoints of a training."""
    space = Counter()
    checkpoints = []
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
