"""What the jobs ask a scheduler for."""

import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

from xft.common.system import torchrun
from xft.config.models import MIXTURES
from xft.config.runs import Run
from xft.config.sections import WorkflowConfig
from xft.config.steps import STEPS, Request
from xft.config.training import TrainingConfig
from xft.dag.measured import row_lengths
from xft.dag.node import Node
from xft.estimates.jobs import configured_job
from xft.estimates.memory import training_memory
from xft.estimates.processors import GIB
from xft.estimates.resources import Requests
from xft.store.store import is_whole


def resources(node: Node) -> dict[str, object]:
    """The resources of an artifact's job, in its first attempt.

    mem_mb, minutes, threads, gpu. expected_gib: memory of the largest process, for trainings on a
    CPU that are to run, if the rows are known. continues: whether a later attempt goes on, or
    begins again. start: the program that starts the step. online: whether it may use the network.
    """
    config, step = node.config, STEPS[node.step]
    asked = _request(node)
    asks = {"mem_mb": asked.mem_mb, "minutes": asked.minutes, "threads": 1, "gpu": 0}
    asks |= {"continues": step.continues, "start": "python", "file": node.file}
    asks["online"] = step.online
    if step.section:
        options = getattr(config, step.section)
        asks["threads"] = config.threads * options.processes
        asks["gpu"] = config.gpus * options.world_size
        asks["start"] = _start(config, options)
        asks["expected_gib"] = _expected(node, step.section)
    elif step.generates:
        asks |= {"threads": config.threads, "gpu": config.gpus}
        asks["priority"] = 2 * (Path(node.source("model").name).name == "base")
        asks["environment"] = node.recipe.options.get("evaluation.backend", "evaluation")
    elif step.threads:
        asks["threads"] = config.threads
    return asks


def memory(asked: dict, attempt: int) -> int:
    """MB of memory in an attempt: a half more each time, and at most twice as much."""
    return asked["mem_mb"] * min(attempt + 1, 4) // 2


def minutes(asked: dict, attempt: int) -> int:
    """The time limit in an attempt: as many times longer, unless the job goes on where it was."""
    return asked["minutes"] * (1 if asked["continues"] else attempt)


def _request(node: Node) -> Request:
    step = STEPS[node.step]
    if step.cost:
        return step.cost
    asked = requests(node)
    if step.generates:
        request = asked.evaluation(of_mixture(node))
        return replace(request, minutes=step.minutes or request.minutes)
    if step.section:
        return asked.training(step.section)
    return asked.conversion()


def _expected(node: Node, section: str) -> float | None:
    asked = requests(node)
    if asked.on_gpu or asked.models is None or is_whole(node.entry):
        return None
    lengths = row_lengths(node.source("tokens"))
    job = configured_job(node.config, section).with_rows(lengths)
    return lengths and round(training_memory(asked.models, job).peak / GIB, 3)


def nodes(options: TrainingConfig) -> dict[str, object]:
    """The resources of a training on several nodes: a task on each, which `srun` starts."""
    if options.nodes == 1:
        return {}
    # With a GPU the Slurm plugin takes tasks as tasks per GPU, unless that is 0.
    return {"nodes": options.nodes, "tasks": options.nodes, "tasks_per_gpu": 0, "mpi": "srun"}


def computing_flags(node: Node) -> dict[str, object]:
    """Flags of a job that change no result: where it computes, and what it reports."""
    config, step = node.config, STEPS[node.step]
    if step.section:
        return {
            "gpus": config.gpus,
            "report_to": config.report_to,
            "tracker_dir": f"{config.results_dir}/metrics",
            "save_minutes": getattr(config, step.section).save_minutes,
        }
    return {"gpus": config.gpus} if step.generates else {}


def _start(config: WorkflowConfig, options: TrainingConfig) -> str:
    """The start of a training's command. On each node torchrun gets the node's GPUs."""
    if options.launch == "single":
        return "python"
    command = torchrun(options.processes, options.nodes)
    if config.gpus:
        command = f"python -m xft.common.gpus {config.gpus * options.processes} {command}"
    if options.nodes == 1:
        return command
    task = shlex.quote(f'exec {command} "$@"')
    return (
        f"srun --nodes={options.nodes} --ntasks-per-node=1 --kill-on-bad-exit=1 "
        f"--cpus-per-task={config.threads * options.processes} bash -c {task} task"
    )


def requests(node: Node) -> Requests:
    """The requests of an artifact's job. A base on the hub has no size until it is fetched."""
    model = Path(node.config.base.model)
    base = next(ancestor for ancestor in node.ancestors() if ancestor.step == "base").place
    return _requests(node.run, model if model.is_dir() else base)


@cache
def _requests(run: Run, base: Path) -> Requests:
    return Requests(run.config, base)


def of_mixture(evaluation: Node) -> bool:
    """Whether an evaluation, or a validation loss, is that of a mixture."""
    return Path(evaluation.source("model").name).name in MIXTURES
