"""Hours and disk space of all runs together, for `xft plan`, and of what a run still makes."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from xft.config.sections import XftConfig
from xft.conversions.extract import extract_ffn
from xft.dag.current import Current
from xft.dag.experiment import Experiment
from xft.dag.job_resources import requests
from xft.dag.wanted import Wanted
from xft.estimates.compute import generation_seconds
from xft.estimates.disk import checkpoint_bytes
from xft.estimates.flops import tuning_ratio
from xft.estimates.jobs import configured_job
from xft.estimates.memory import Job
from xft.estimates.parameters import Models
from xft.estimates.report import Plan, duration, gigabytes, table
from xft.estimates.rows import count_problems
from xft.estimates.tensors import planned_table

FindPlan = Callable[[XftConfig], Plan]
FindModels = Callable[[Wanted], tuple[Models, Job]]
MIXTURES = ("moe", "moe_sft")
DENSE = ("sft", "soup", "heal")
MERGES = ("uniform", "experts_only", "dense")


def totals(experiment: Experiment, plan_of: FindPlan) -> list[str]:
    """The lines of a plan about all runs: jobs of each rule, their hours and their disk space.

    Artifacts that runs share count once. plan_of: gives the plan for a run's configuration.
    """
    best = (choice.best(0) for choice in experiment.choices.values())
    parts = [*experiment.report.chain(), *best]
    counts = Counter(part.rule for part in parts)
    hours: dict[str, float | None] = {}
    for part in parts:
        needed = _hours(part, plan_of(part.run.config))
        known = None not in (needed, hours.get(part.rule, 0))
        hours[part.rule] = hours.get(part.rule, 0) + needed if known else None

    def find(part: Wanted) -> tuple[Models, Job]:
        plan = plan_of(part.run.config)
        return plan.models, plan.tuning

    space = _space(experiment, parts, find)
    rows = [
        (rule, f"{count:,}", duration(hours[rule]) if hours[rule] != 0 else "", space[rule])
        for rule, count in counts.items()
    ]
    whole = None if None in hours.values() else sum(hours.values())
    nbytes = sum(space.values())
    rows = [(*row, gigabytes(size) if size else "") for *row, size in rows]
    return [
        f"All {len(experiment.runs):,} runs together; what they share is counted once",
        *table(
            [
                ("", "jobs", "hours at most", "disk"),
                *rows,
                ("all", f"{len(parts):,}", duration(whole), gigabytes(nbytes)),
            ]
        ),
        "  hours: trainings and evaluations, one after the other",
        "  disk: with the checkpoints of one training",
    ]


def warn_of_full_disk(current: Current) -> str | None:
    """A line with both numbers if a run may need more disk space than is free, or None.

    None also while the size of the base is unknown.
    """
    models = (part for part in current.wanted() if part.step in (*MIXTURES, *DENSE, *MERGES, "ffn"))
    made = [part for part in models if not current.fits(part)]
    if any(requests(part).models is None for part in made):
        return None

    def find(part: Wanted) -> tuple[Models, Job]:
        config, request = part.run.config, requests(part)
        job = configured_job(config, "moe_sft", config.moe_sft.world_size, request.on_gpu)
        return request.models, job

    results = current.experiment.results
    place = next(place for place in (results, *results.absolute().parents) if place.exists())
    needed = sum(_space(current.experiment, made, find).values())
    free = shutil.disk_usage(place).free
    if needed <= free:
        return None
    return (
        f"WARNING: this run writes up to {gigabytes(needed)}, and the disk of {results} has "
        f"{gigabytes(free)} free. Make room, or choose a results_dir on another disk"
    )


def _space(experiment: Experiment, parts: Iterable[Wanted], find: FindModels) -> dict[str, int]:
    """Bytes of the artifacts of each rule. A merge that is not kept takes none in the end.

    find: gives the models of an artifact's run, and the job of its step 2.
    """
    found: dict[str, int] = defaultdict(int)
    kept = experiment.config.merge.keep == "all"
    checkpoints = 0
    for part in parts:
        models, tuning = find(part)
        if part.step in MIXTURES:
            found[part.rule] += models.mixture.nbytes
        elif part.step == "ffn":
            found[part.rule] += planned_table(extract_ffn(models.mixture), models.base).nbytes
        elif part.step in DENSE or part.rule == "best" or (part.rule in MERGES and kept):
            found[part.rule] += models.base.nbytes
        if part.step == "moe_sft":
            checkpoints = max(checkpoints, checkpoint_bytes(models, tuning))
    found["moe_sft"] += checkpoints
    return found


def _hours(part: Wanted, plan: Plan) -> float | None:
    """Hours at most of a job; None if they are unknown, 0 if a job takes minutes."""
    if part.step == "eval":
        return _evaluation_hours(part, plan)
    if part.step == "weighted_trained":
        return plan.hours_on(*plan.speed(plan.mixing.precision))[1]
    if part.step not in ("moe_sft", "sft", "heal"):
        return 0
    hours = plan.tuning_hours(part.step)
    if hours is None or "flops_of" not in part.sources:
        return hours
    options = plan.config
    return hours * tuning_ratio(plan.models, options.data.max_length, options.sft.lora_rank)


def _evaluation_hours(part: Wanted, plan: Plan) -> float | None:
    """Hours at most of one evaluation: an equal part of those on all data sets."""
    options = plan.config.evaluation
    problems = count_problems(options)
    if problems is None:
        return None
    is_mixture = part.sources["model"].step in MIXTURES
    seconds = generation_seconds(plan.models, is_mixture, problems, options, *plan.speed("fp32"))
    return seconds / 3600 / len(options.datasets)
