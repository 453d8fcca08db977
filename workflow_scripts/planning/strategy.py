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
    refused = ""
    for candidate in _candidates(job):
        memory = tuning_memory(models, candidate)
        text = f"{name_of(candidate)} ({memory.peak / GIB:.1f} GiB)"
        if memory.peak <= gpu.room(candidate.processes):
            reason = f"{text} fits{refused}{_warning(candidate)}"
            return Advice(candidate, memory, reason)
        refused = f"; {text} does not"
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


def _candidates(job: Job) -> Iterator[Job]:
    """Jobs from the simplest on. Adafactor does not run under FSDP2."""
    several = ("ddp", "zero2", "zero3" if job.optimizer == "adafactor" else "fsdp")
    for launch in several if job.processes > 1 else ("single",):
        last = launched(job, launch)
        yield last
    if not job.checkpointing:
        last = replace(last, checkpointing=True)
        yield last
    if job.batch.rows > 1:
        rows, accumulation = replace(last.batch, rows=1), last.accumulation * last.batch.rows
        last = replace(last, batch=rows, accumulation=accumulation)
        yield last
    yield replace(last, launch="zero2" if job.processes == 1 else "zero3", offload=True)


def name_of(job: Job) -> str:
    """A job's strategy, and what it does besides to save memory."""
    name = job.launch
    if job.checkpointing:
        name += " + activation_checkpointing"
    if job.offloads:
        name += " + offload_optimizer"
    return f"{name}, {job.batch.rows} row{'s' * (job.batch.rows > 1)} at once"


def _warning(job: Job) -> str:
    if job.zero and job.optimizer == "adafactor":
        return ". Under ZeRO, Adafactor's state is not factored: another optimiser than published"
    return ""
