"""Converts the trainings of a configuration to jobs, whose memory and time can be computed."""

from dataclasses import replace

from xft.config.sections import XftConfig
from xft.config.training import fault_of_shards, precision_of
from xft.estimates.activations import Batch
from xft.estimates.memory import Job


def configured_job(config: XftConfig, section: str, processes: int, on_gpu: bool) -> Job:
    """The job for the config's section `moe_sft`, `sft` or `mixing`."""
    options = getattr(config, section)
    return Job(
        launch=options.launch,
        processes=processes,
        batch=Batch(options.per_device_train_batch_size, config.data.max_length),
        accumulation=options.gradient_accumulation_steps,
        precision=precision_of(options, has_bf16=on_gpu),
        optim=options.optim,
        checkpointing=options.activation_checkpointing,
        offload=options.offload_optimizer,
        on_gpu=on_gpu,
        average=options.average,
    )


def configured_processes(config: XftConfig) -> int:
    """The number of processes of step 2 on all nodes."""
    return config.moe_sft.world_size


def fault_of(job: Job) -> str | None:
    """The reason why the job's settings cannot be combined; None if they can."""
    return fault_of_shards(job.launch, job.optim, job.precision, job.offload, job.average)


def launched(job: Job, launch: str) -> Job:
    """The job with another launch strategy. With `single` it has one process."""
    return replace(job, launch=launch, processes=1 if launch == "single" else job.processes)
