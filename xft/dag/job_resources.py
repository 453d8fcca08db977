"""What the jobs ask a scheduler for."""

import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

from xft.cli.flags import to_flags
from xft.config.sections import XftConfig
from xft.config.training import TrainingConfig
from xft.dag.wanted import TRAININGS, Wanted
from xft.estimates.jobs import SECTIONS
from xft.estimates.resources import Needs, Requests
from xft.training.launch import torchrun

MEASUREMENT_MINUTES = {"validation_loss": 60, "lm_eval": 720}
# Needs that do not depend on the model.
FIXED = {
    "base": Needs(4000, 120),
    "fetch_data": Needs(1000, 60),
    "fetch_problems": Needs(1000, 60),
    "tokens": Needs(8000, 120),
    "contamination": Needs(8000, 120),
    "ground_truth": Needs(8000, 120),
    "summary": Needs(1000, 5),
    "report": Needs(1000, 5),
}


def resources(part: Wanted) -> dict[str, object]:
    """The resources of an artifact's job, in its first attempt.

    mem_mb, minutes, threads, gpu. continues: whether a later attempt goes on, or begins again.
    start: the program that starts the step. besides: flags that do not change the result.
    """
    config, step = part.run.config, part.rule
    needs = _needs(part)
    found = {"mem_mb": needs.mem_mb, "minutes": needs.minutes, "threads": 1, "gpu": 0}
    found |= {"continues": step in (*TRAININGS, "eval"), "start": "python", "besides": ""}
    found["file"] = part.file
    if step in TRAININGS:
        options = getattr(config, SECTIONS[step])
        found["threads"] = config.threads * options.processes
        found["gpu"] = config.gpus * options.world_size
        found |= {"start": _start(config, options), "besides": _besides(part, options)}
    elif _generates(part):
        found |= {"threads": config.threads, "gpu": config.gpus}
        found["besides"] = to_flags({"gpus": config.gpus})
        found["environment"] = part.recipe.options.get("evaluation.backend", "evaluation")
    elif step == "ground_truth":
        found["threads"] = config.threads
    return found


def memory(asked: dict, attempt: int) -> int:
    """MB of memory in an attempt: a half more each time, and at most twice as much."""
    return asked["mem_mb"] * min(attempt + 1, 4) // 2


def minutes(asked: dict, attempt: int) -> int:
    """The time limit in an attempt: as many times longer, unless the job goes on where it was."""
    return asked["minutes"] * (1 if asked["continues"] else attempt)


def _needs(part: Wanted) -> Needs:
    step, asked = part.rule, requests(part)
    if step in FIXED:
        return FIXED[step]
    if step in TRAININGS:
        return asked.training(SECTIONS[step])
    if step == "weighted_init":
        return asked.evaluation("moe_sft") if _generates(part) else Needs(3000, 10)
    if not _generates(part):
        return asked.conversion()
    needs = asked.evaluation(part.sources["model"].rule)
    return replace(needs, minutes=MEASUREMENT_MINUTES.get(step, needs.minutes))


def _generates(part: Wanted) -> bool:
    """Whether the job loads a model. The first coefficients may follow the mixture's use."""
    is_usage = part.rule == "weighted_init" and "tokens" in part.sources
    return is_usage or part.rule in ("eval", "validation_loss", "lm_eval")


def nodes(options: TrainingConfig) -> dict[str, object]:
    """The resources of a training on several nodes: a task on each, which `srun` starts."""
    if options.nodes == 1:
        return {}
    # With a GPU the Slurm plugin takes tasks as tasks per GPU, unless that is 0.
    return {"nodes": options.nodes, "tasks": options.nodes, "tasks_per_gpu": 0, "mpi": "srun"}


def _besides(part: Wanted, options: TrainingConfig) -> str:
    config = part.run.config
    flags = {
        "gpus": config.gpus,
        "report_to": config.report_to,
        "tracker_dir": f"{config.results_dir}/metrics",
        "save_minutes": options.save_minutes,
    }
    return to_flags(flags)


def _start(config: XftConfig, options: TrainingConfig) -> str:
    """The start of a training's command. On each node torchrun gets the node's GPUs."""
    if options.launch == "single":
        return "python"
    command = torchrun(options)
    if config.gpus:
        command = f"python -m xft.common.gpus {config.gpus * options.processes} {command}"
    if options.nodes == 1:
        return command
    task = shlex.quote(f'exec {command} "$@"')
    return (
        f"srun --nodes={options.nodes} --ntasks-per-node=1 --kill-on-bad-exit=1 "
        f"--cpus-per-task={config.threads * options.processes} bash -c {task} task"
    )


@cache
def requests(part: Wanted) -> Requests:
    """The requests of an artifact's job. A base on the hub has no size until it is fetched."""
    config = part.run.config
    model = Path(config.base.model)
    return _requests(part.run, model if model.is_dir() else part.run.base.place)


@cache
def _requests(run, base: Path) -> Requests:
    return Requests(run.config, base)
