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
    """The resources of the rules. `besides` holds flags that do not change the result. It is a
    resource and not a param, because a changed param would make the step run again.

    tracker_dir: the folder for trackers.
    """

    config: XftConfig
    requests: Requests
    tracker_dir: str

    def conversion(self) -> dict:
        """The resources of a conversion."""
        return growing(lambda wildcards: self.requests.conversion())

    def evaluation(self) -> dict:
        """The resources of an evaluation. It continues in its next attempt."""
        needs = continuing(lambda wildcards: self.requests.evaluation(wildcards.model))
        return needs | self._generation()

    def measurement(self, minutes: int) -> dict:
        """The resources of another measurement of a model. It begins again in its next attempt."""

        def needs(wildcards) -> Needs:
            return replace(self.requests.evaluation(wildcards.model), minutes=minutes)

        return growing(needs) | self._generation()

    def training(self, section: str) -> dict:
        """The resources of a training. On several nodes: a task on each, which `srun` starts."""
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
