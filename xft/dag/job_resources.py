"""What the jobs ask a scheduler for."""

import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

from xft.cli.flags import to_flags
from xft.config.sections import XftConfig
from xft.config.steps import STEPS, Request
from xft.config.training import TrainingConfig
from xft.dag.measured import row_lengths
from xft.dag.wanted import Wanted
from xft.estimates.jobs import configured_job
from xft.estimates.memory import training_memory
from xft.estimates.processors import GIB
from xft.estimates.resources import Requests
from xft.store.store import is_whole
from xft.training.launch import torchrun


def resources(part: Wanted) -> dict[str, object]:
    """The resources of an artifact's job, in its first attempt.

    mem_mb, minutes, threads, gpu. expected_gib: memory of the largest process, for trainings on a
    CPU that are to run, if the rows are known. continues: whether a later attempt goes on, or
    begins again. start: the program that starts the step. besides: flags that do not change the
    result.
    """
    config, step = part.run.config, STEPS[part.rule]
    asked = _request(part)
    found = {"mem_mb": asked.mem_mb, "minutes": asked.minutes, "threads": 1, "gpu": 0}
    found |= {"continues": step.continues, "start": "python", "besides": "", "file": part.file}
    if step.section:
        options = getattr(config, step.section)
        found["threads"] = config.threads * options.processes
        found["gpu"] = config.gpus * options.world_size
        found |= {"start": _start(config, options), "besides": _besides(part, options)}
        found["expected_gib"] = _expected(part, step.section)
    elif step.generates:
        found |= {"threads": config.threads, "gpu": config.gpus}
        found["besides"] = to_flags({"gpus": config.gpus})
        found["environment"] = part.recipe.options.get("evaluation.backend", "evaluation")
    elif part.rule in ("ground_truth", "tokens", "contamination"):
        found["threads"] = config.threads
    return found


def memory(asked: dict, attempt: int) -> int:
    """MB of memory in an attempt: a half more each time, and at most twice as much."""
    return asked["mem_mb"] * min(attempt + 1, 4) // 2


def minutes(asked: dict, attempt: int) -> int:
    """The time limit in an attempt: as many times longer, unless the job goes on where it was."""
    return asked["minutes"] * (1 if asked["continues"] else attempt)


def _request(part: Wanted) -> Request:
    step, asked = STEPS[part.rule], requests(part)
    if step.generates:
        found = asked.evaluation(part.sources["model"].name.rpartition("/")[2])
        return replace(found, minutes=step.minutes or found.minutes)
    if step.section:
        return asked.training(step.section)
    return step.cost or asked.conversion()


def _expected(part: Wanted, section: str) -> float | None:
    asked = requests(part)
    if asked.on_gpu or asked.models is None or is_whole(part.entry):
        return None
    lengths = row_lengths(part.run)
    job = configured_job(part.run.config, section).with_rows(lengths)
    return lengths and round(training_memory(asked.models, job).peak / GIB, 3)


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


def requests(part: Wanted) -> Requests:
    """The requests of an artifact's job. A base on the hub has no size until it is fetched."""
    config = part.run.config
    model = Path(config.base.model)
    return _requests(part.run, model if model.is_dir() else part.run.of("base").place)


@cache
def _requests(run, base: Path) -> Requests:
    return Requests(run.config, base)
