"""Which launch strategy to take for step 2 on given GPUs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from workflow_scripts.planning.gpus import GIB, Gpu
from workflow_scripts.planning.jobs import launched
from workflow_scripts.planning.memory import Job, Memory, tuning_memory
from workflow_scripts.planning.parameters import Models

MORE_GPUS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Advice:
    """The first way that fits, and why not one before it. job, memory: None where none fits."""

    job: Job | None
    memory: Memory | None
    reason: str


def advise(models: Models, job: Job, gpu: Gpu) -> Advice:
    """The simplest strategy whose peak fits the GPU: whole models before shards, shards before
    activations that are computed twice, and last a smaller batch.
    """
    refused = []
    for candidate, name in _candidates(job):
        memory = tuning_memory(models, candidate)
        if memory.peak <= gpu.room(candidate.processes):
            reason = f"{name} needs {memory.peak / GIB:.1f} GiB"
            if refused:
                reason += f"; {refused[-1]} would not fit"
            return Advice(candidate, memory, reason + _warning(candidate))
        refused.append(f"{name} ({memory.peak / GIB:.1f} GiB)")
    for processes in MORE_GPUS:
        candidate = replace(job, launch="zero3", processes=processes, checkpointing=True)
        if processes > job.processes:
            memory = tuning_memory(models, candidate)
            if memory.peak <= gpu.room(processes):
                reason = (
                    f"from {processes} of these GPUs on, with zero3 and activation_checkpointing"
                )
                return Advice(None, None, f"none fits; {reason}")
    return Advice(None, None, "none fits, on any number of these GPUs")


def _candidates(job: Job) -> Iterator[tuple[Job, str]]:
    """Jobs from the simplest on, with their names. Adafactor does not run under FSDP2."""
    several = ("ddp", "zero2", "zero3" if job.optimizer == "adafactor" else "fsdp")
    for launch in several if job.processes > 1 else ("single",):
        yield launched(job, launch), launch
    last = launched(job, several[-1] if job.processes > 1 else "single")
    if not job.checkpointing:
        last = replace(last, checkpointing=True)
        yield last, f"{last.launch} with activation_checkpointing"
    if job.batch.rows > 1:
        rows = replace(last.batch, rows=1)
        last = replace(last, batch=rows, accumulation=last.accumulation * job.batch.rows)
        yield last, f"{last.launch} with activation_checkpointing and a batch of 1"
    last = replace(last, launch="zero2" if job.processes == 1 else "zero3", offload=True)
    yield last, f"{last.launch} with offload_optimizer, besides"


def _warning(job: Job) -> str:
    if job.zero and job.optimizer == "adafactor":
        return ". Under ZeRO, Adafactor's state is not factored: another optimiser than published"
    return ""
