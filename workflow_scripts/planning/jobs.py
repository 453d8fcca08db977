"""The trainings of a completed configuration as jobs."""

from dataclasses import replace

from workflow_scripts.config.sections import XftConfig
from workflow_scripts.config.training import fault_of_shards, precision_of
from workflow_scripts.planning.activations import Batch
from workflow_scripts.planning.memory import Job


def configured_job(config: XftConfig, section: str, processes: int, on_gpu: bool) -> Job:
    """How the config's section `moe_sft`, `sft` or `mixing` runs on so many processes."""
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
    )


def configured_processes(config: XftConfig) -> int:
    """The processes of step 2, of all nodes."""
    return config.moe_sft.world_size


def fault_of(job: Job) -> str | None:
    """Why the job's settings exclude each other; None where it can run."""
    return fault_of_shards(job.launch, job.optim, job.precision, job.offload)


def launched(job: Job, launch: str) -> Job:
    """The job by another strategy; a single process is one whatever is asked for."""
    return replace(job, launch=launch, processes=1 if launch == "single" else job.processes)
