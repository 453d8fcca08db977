"""Hours and disk space of all runs together, for `xft plan`, and of what a run still makes."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from xft.common.errors import counted
from xft.common.refusals import nearest_folder
from xft.config.models import MODELS
from xft.config.sections import XftConfig
from xft.config.steps import TRAINING_SECTIONS
from xft.dag.experiment import Experiment
from xft.dag.job_resources import requests
from xft.dag.run import WorkflowRun
from xft.dag.wanted import Wanted
from xft.estimates.disk import artifact_bytes, checkpoint_bytes
from xft.estimates.flops import tuning_ratio
from xft.estimates.jobs import configured_job
from xft.estimates.parameters import Models
from xft.estimates.report import Plan, disk_text, duration, table

FindPlan = Callable[[XftConfig], Plan]


def totals(experiment: Experiment, plan_of: FindPlan) -> list[str]:
    """The lines of a plan about all runs: jobs of each rule, their hours and their disk space.

    Artifacts that runs share count once. plan_of: gives the plan for a run's configuration.
    """
    parts = {part: plan_of(part.run.config) for part in experiment.wanted}
    jobs = Counter(part.rule for part in parts)
    space = _space({part: plan.models for part, plan in parts.items()})
    hours = defaultdict(list)
    for part, plan in parts.items():
        hours[part.rule].append(_hours(part, plan))
    rows = [("", "jobs", "hours", "disk")]
    rows += [
        (rule, f"{count:,}", _sum(hours[rule]), disk_text(space[rule]))
        for rule, count in jobs.items()
    ]
    whole = _sum(value for values in hours.values() for value in values)
    rows.append(("all", f"{len(parts):,}", whole, disk_text(space.total())))
    return [
        f"All jobs of {counted(len(experiment.runs), 'run')}; what runs share is counted once",
        *table(rows),
        "  hours: trainings and evaluations, one after the other",
        "  disk: with the checkpoints of one training; at most (above) if several run at once",
        "  jobs: snakemake counts one more, all, which makes nothing",
    ]


def warn_of_full_disk(run: WorkflowRun, to_make: Iterable[Wanted]) -> str | None:
    """A line with both numbers if a run may need more disk space than is free, or None.

    None also while the size of the base is unknown.
    """
    made = {part: requests(part).models for part in to_make if part.rule in MODELS[1:]}
    if None in made.values():
        return None
    store = run.store.root
    needed, free = _space(made).total(), shutil.disk_usage(nearest_folder(store)).free
    if needed <= free:
        return None
    return (
        f"WARNING: this run writes up to {disk_text(needed)}, and the disk of {store} has "
        f"{disk_text(free)} free. Make room, or set store to a folder on another disk"
    )


def _sum(hours: Iterable[float | None]) -> str:
    values = list(hours)
    return duration(None if None in values else sum(values))


def _space(parts: dict[Wanted, Models]) -> Counter:
    """Bytes of the artifacts of each rule, and of the largest checkpoints of moe_sft."""
    space = Counter()
    for part, models in parts.items():
        space[part.rule] += _nbytes(part, models)
    checkpoints = (
        checkpoint_bytes(models, configured_job(part.run.config, "moe_sft"))
        for part, models in parts.items()
        if part.rule == "moe_sft"
    )
    space["moe_sft"] += max(checkpoints, default=0)
    return space


def _nbytes(part: Wanted, models: Models) -> int:
    """Bytes of an artifact. A merge that is not kept takes none in the end.

    The best one is kept, and until it is known all of them are.
    """
    if part.rule == "dense" and part.run.config.merge.keep == "none":
        return 0
    return artifact_bytes(models, part.rule)


def _hours(part: Wanted, plan: Plan) -> float | None:
    """Hours at most of a job; None if they are unknown, 0 if a job takes minutes."""
    if part.rule == "eval":  # an equal part of those on all data sets
        hours = plan.evaluation_hours(part.sources["model"].name.rpartition("/")[2])
        return hours and hours / len(plan.config.evaluation.datasets)
    if part.rule not in TRAINING_SECTIONS:
        return 0
    hours = plan.training_hours(TRAINING_SECTIONS[part.rule])
    if hours is None or "flops_of" not in part.sources:
        return hours
    options = plan.config
    return hours * tuning_ratio(plan.models, options.data.max_length, options.sft.lora_rank)
