"""What the rules' jobs ask a scheduler for, as functions that Snakemake calls in each attempt."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from xft.cli.flags import to_flags
from xft.config.sections import XftConfig
from xft.config.training import TrainingConfig
from xft.dag.wanted import Wanted
from xft.estimates.resources import Needs, Requests
from xft.training.launch import torchrun

# From the wildcards of a job to what it needs in its first attempt.
FindNeeds = Callable[[object], Needs]
# From the wildcards of a job to the artifact that it makes.
FindWanted = Callable[[object], Wanted]


@dataclass(frozen=True)
class JobResources:
    """The resources of the rules. `besides` holds flags that do not change the result, `start` the
    program that starts a training. They are resources and not params, because a changed param would
    make the step run again.

    config: for the keys that are the same in all runs. metrics: the folder for trackers.
    """

    config: XftConfig
    metrics: str

    def conversion(self, find: FindWanted) -> dict:
        """The resources of a conversion."""
        return growing(lambda wildcards: requests(find(wildcards)).conversion())

    def evaluation(self, find: FindWanted) -> dict:
        """The resources of an evaluation. It continues in its next attempt."""
        return continuing(self._evaluation(find)) | self._generation()

    def measurement(self, find: FindWanted, minutes: int) -> dict:
        """The resources of another measurement of a model. It begins again in its next attempt."""
        needs = self._evaluation(find)
        return growing(lambda w: replace(needs(w), minutes=minutes)) | self._generation()

    def _evaluation(self, find: FindWanted) -> FindNeeds:
        return lambda wildcards: requests(find(wildcards)).evaluation(wildcards.model)

    def start_of_mixing(self, find: FindWanted) -> dict:
        """The resources of the first coefficients. A mixture is loaded if its use is measured."""

        def measures(wildcards) -> bool:
            return "tokens" in find(wildcards).sources

        def needs(wildcards) -> Needs:
            small = Needs(3000, 10)
            return requests(find(wildcards)).evaluation("moe_sft") if measures(wildcards) else small

        resources = growing(needs) | self._generation()
        return resources | {"gpu": lambda wildcards: self.config.gpus * measures(wildcards)}

    def training(self, section: str, find: FindWanted) -> dict:
        """The resources of a training. On several nodes: a task on each, which `srun` starts."""
        options = getattr(self.config, section)
        resources = continuing(lambda wildcards: requests(find(wildcards)).training(section))
        resources["gpu"] = self.config.gpus * options.world_size
        resources["start"] = self._start(options)
        resources["besides"] = lambda wildcards: self._besides(options, wildcards.variation)
        if options.nodes > 1:
            # With a GPU the Slurm plugin takes tasks as tasks per GPU, unless that is 0.
            resources |= {"nodes": options.nodes, "tasks": options.nodes}
            resources |= {"tasks_per_gpu": 0, "mpi": "srun"}
        return resources

    def _besides(self, options: TrainingConfig, variation: str) -> str:
        flags = {
            "gpus": self.config.gpus,
            "report_to": self.config.report_to,
            "tracker_dir": f"{self.metrics}/{variation}".rstrip("/"),
            "save_minutes": options.save_minutes,
        }
        return to_flags(flags)

    def _start(self, options: TrainingConfig) -> str:
        """The start of a training's command. On each node torchrun gets the node's GPUs."""
        if options.launch == "single":
            return "python"
        command = torchrun(options)
        if self.config.gpus:
            command = f"python -m xft.common.gpus {self.config.gpus * options.processes} {command}"
        if options.nodes == 1:
            return command
        task = shlex.quote(f'exec {command} "$@"')
        return (
            f"srun --nodes={options.nodes} --ntasks-per-node=1 --kill-on-bad-exit=1 "
            f"--cpus-per-task={self.config.threads * options.processes} bash -c {task} task"
        )

    def _generation(self) -> dict:
        return {"gpu": self.config.gpus, "besides": to_flags({"gpus": self.config.gpus})}


@cache
def requests(wanted: Wanted) -> Requests:
    """The requests of an artifact's job. A base on the hub has no size until it is fetched."""
    config = wanted.run.config
    model = Path(config.base.model)
    base = next(part.place for part in wanted.chain() if part.step == "base")
    return Requests(config, model if model.is_dir() else base)


def fixed(mem_mb: int, minutes: int) -> dict:
    """The resources of a step whose needs do not depend on the model."""
    return growing(lambda wildcards: Needs(mem_mb, minutes))


def growing(needs: FindNeeds) -> dict:
    """The resources of a step that begins again: more memory and more time in each attempt."""
    return continuing(needs) | {
        "runtime": lambda wildcards, attempt: attempt * needs(wildcards).minutes
    }


def continuing(needs: FindNeeds) -> dict:
    """The resources of a step that continues: more memory in each attempt, and no more time.

    A half more memory each time, and at most twice as much: most attempts end because their time
    is over.
    """
    return {
        "mem_mb": lambda wildcards, attempt: needs(wildcards).mem_mb * min(attempt + 1, 4) // 2,
        "runtime": lambda wildcards: needs(wildcards).minutes,
    }
