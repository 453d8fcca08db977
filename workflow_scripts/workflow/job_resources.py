"""What the rules' jobs ask a scheduler for, as functions that Snakemake calls in each attempt."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from workflow_scripts.cli.flags import to_flags
from workflow_scripts.config.sections import XftConfig
from workflow_scripts.planning.resources import Needs, Requests

# From the wildcards of a job to what it needs in its first attempt.
FindNeeds = Callable[[object], Needs]


@dataclass(frozen=True)
class JobResources:
    """The resources of the rules. `besides` is no resource but flags that change no result: as
    params they would run a step again.

    tracker_dir: the folder for trackers.
    """

    config: XftConfig
    requests: Requests
    tracker_dir: str

    def conversion(self) -> dict:
        """Of a conversion."""
        return growing(lambda wildcards: self.requests.conversion())

    def evaluation(self) -> dict:
        """Of an evaluation, which continues in its next attempt."""
        needs = continuing(lambda wildcards: self.requests.evaluation(wildcards.model))
        return needs | self._generation()

    def measurement(self, minutes: int) -> dict:
        """Of another measurement of a model, which takes so many minutes and begins again."""

        def needs(wildcards) -> Needs:
            return replace(self.requests.evaluation(wildcards.model), minutes=minutes)

        return growing(needs) | self._generation()

    def training(self, section: str) -> dict:
        """Of a training. On several nodes: a task on each, which `srun` starts."""
        options = getattr(self.config, section)
        flags = {
            "gpus": self.config.gpus,
            "report_to": self.config.report_to,
            "tracker_dir": self.tracker_dir,
            "save_minutes": options.save_minutes,
        }
        resources = continuing(lambda wildcards: self.requests.training(section))
        resources |= {"gpu": self.config.gpus * options.world_size, "besides": to_flags(flags)}
        if options.nodes > 1:
            # With a GPU the Slurm plugin takes tasks as tasks per GPU, unless that is 0.
            resources |= {"nodes": options.nodes, "tasks": options.nodes}
            resources |= {"tasks_per_gpu": 0, "mpi": "srun"}
        return resources

    def srun(self, section: str) -> str:
        """The start of a training's command on several nodes; nothing on one."""
        options = getattr(self.config, section)
        if options.nodes == 1:
            return ""
        return (
            f"srun --nodes={options.nodes} --ntasks-per-node=1 --kill-on-bad-exit=1 "
            f"--cpus-per-task={self.config.threads * options.processes} "
        )

    def _generation(self) -> dict:
        return {"gpu": self.config.gpus, "besides": to_flags({"gpus": self.config.gpus})}


def fixed(mem_mb: int, minutes: int) -> dict:
    """Of a step whose needs do not depend on the model."""
    return growing(lambda wildcards: Needs(mem_mb, minutes))


def growing(needs: FindNeeds) -> dict:
    """Of a step that begins again in its next attempt: more memory and more time each time."""
    return continuing(needs) | {
        "runtime": lambda wildcards, attempt: attempt * needs(wildcards).minutes
    }


def continuing(needs: FindNeeds) -> dict:
    """Of a step that continues in its next attempt: more memory, and no more time.

    A half more memory each time, and at most twice as much: most of these end by their time.
    """
    return {
        "mem_mb": lambda wildcards, attempt: needs(wildcards).mem_mb * min(attempt + 1, 4) // 2,
        "runtime": lambda wildcards: needs(wildcards).minutes,
    }
