"""Finds the simplest launch strategy that fits the GPUs in step 2."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from xft.config.training import SHARDED_OPTIMIZERS
from xft.estimates.gpus import GIB, Gpu
from xft.estimates.jobs import fault_of, launched
from xft.estimates.memory import Job, Memory, tuning_memory
from xft.estimates.parameters import Models

MORE_GPUS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Advice:
    """The first strategy that fits, and the reason for it. job, memory: None if none fits."""

    job: Job | None
    memory: Memory | None
    reason: str


def advise(models: Models, job: Job, gpu: Gpu) -> Advice:
    """The simplest strategy whose peak fits the GPU.

    The order is: whole models, shards, activation checkpointing, a smaller micro-batch, offloading.
    """
    refused = ""
    for candidate in _candidates(job):
        memory = tuning_memory(models, candidate)
        text = f"{name_of(candidate)} ({memory.peak / GIB:.1f} GiB)"
        if memory.peak <= gpu.room(candidate.processes):
            return Advice(candidate, memory, f"{text} fits{refused}")
        refused = f"; {text} does not"
    for processes in MORE_GPUS:
        candidate = _most_sharded(job, processes)
        if processes > job.processes and fault_of(candidate) is None:
            memory = tuning_memory(models, candidate)
            if memory.peak <= gpu.room(processes):
                with_others = [
                    f"{key} {getattr(candidate, key)}"
                    for key in ("launch", "optim", "precision")
                    if getattr(candidate, key) != getattr(job, key)
                ]
                reason = f"with {', '.join(with_others)} and activation_checkpointing"
                return Advice(None, None, f"none fits; use at least {processes} GPUs, {reason}")
    return Advice(None, None, "none fits, on any number of these GPUs")


def _most_sharded(job: Job, processes: int) -> Job:
    """The job with ZeRO-3, and an optimiser and a precision that ZeRO-3 supports."""
    precision = "bf16" if job.precision == "bf16_pure" else job.precision
    optim = job.optim if job.optim in SHARDED_OPTIMIZERS else SHARDED_OPTIMIZERS[0]
    job = replace(job, launch="zero3", processes=processes, checkpointing=True)
    return replace(job, optim=optim, precision=precision)


def _candidates(job: Job) -> Iterator[Job]:
    """The jobs whose settings can be combined, the simplest first."""
    return (candidate for candidate in _by_simplicity(job) if fault_of(candidate) is None)


def _by_simplicity(job: Job) -> Iterator[Job]:
    several = [launched(job, launch) for launch in ("ddp", "zero2", "fsdp")]
    several = [candidate for candidate in several if fault_of(candidate) is None]
    for last in several if job.processes > 1 else (launched(job, "single"),):
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
    """The text for a job's strategy and its other ways to save memory."""
    name = job.launch
    if job.checkpointing:
        name += " + activation_checkpointing"
    if job.offloads:
        name += " + offload_optimizer"
    return f"{name}, {job.batch.rows} row{'s' * (job.batch.rows > 1)} at once"
