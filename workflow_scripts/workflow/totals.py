"""Hours and disk space of all runs of a configuration together, for `xft plan`."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from workflow_scripts.config.sections import XftConfig
from workflow_scripts.conversions.extract import extract_ffn
from workflow_scripts.planning.compute import generation_seconds
from workflow_scripts.planning.disk import checkpoint_bytes
from workflow_scripts.planning.flops import tuning_ratio
from workflow_scripts.planning.report import Plan, duration, gigabytes, table
from workflow_scripts.planning.rows import count_problems
from workflow_scripts.planning.tensors import planned_table
from workflow_scripts.workflow.experiment import Experiment
from workflow_scripts.workflow.wanted import Wanted

FindPlan = Callable[[XftConfig], Plan]
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
    space = _space(experiment, parts, plan_of)
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


def _space(experiment: Experiment, parts: Iterable[Wanted], plan_of: FindPlan) -> dict[str, int]:
    """Bytes of the artifacts of each rule. A merge that is not kept takes none in the end."""
    found: dict[str, int] = defaultdict(int)
    kept = experiment.config.merge.keep == "all"
    checkpoints = 0
    for part in parts:
        models = plan_of(part.run.config).models
        if part.step in MIXTURES:
            found[part.rule] += models.mixture.nbytes
        elif part.step == "ffn":
            found[part.rule] += planned_table(extract_ffn(models.mixture), models.base).nbytes
        elif part.step in DENSE or part.rule == "best" or (part.rule in MERGES and kept):
            found[part.rule] += models.base.nbytes
        if part.step == "moe_sft":
            plan = plan_of(part.run.config)
            checkpoints = max(checkpoints, checkpoint_bytes(models, plan.tuning))
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
