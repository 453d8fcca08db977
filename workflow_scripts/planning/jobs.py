"""The trainings of a completed configuration as jobs."""

from dataclasses import replace

from workflow_scripts.config.launch import fault_of_shards, precision_of, world_size
from workflow_scripts.planning.activations import Batch
from workflow_scripts.planning.memory import Job


def configured_job(config: dict, section: str, processes: int, on_gpu: bool) -> Job:
    """How the config's section `training` or `mixing` runs on so many processes."""
    options = config[section]
    return Job(
        launch=options["launch"],
        processes=processes,
        batch=Batch(options["per_device_batch_size"], config["data"]["max_length"]),
        accumulation=options["gradient_accumulation_steps"],
        precision=precision_of(options, has_bf16=on_gpu),
        optimizer=options["optimizer"],
        checkpointing=options["activation_checkpointing"],
        offload=options.get("offload_optimizer", False),  # mixing shards nothing
        on_gpu=on_gpu,
    )


def configured_processes(config: dict) -> int:
    """The processes of step 2, of all nodes."""
    return world_size(config["training"])


def fault_of(job: Job) -> str | None:
    """Why the job's settings exclude each other; None where it can run."""
    names = {"launch": job.launch, "optimizer": job.optimizer, "precision": job.precision}
    return fault_of_shards(names | {"offload_optimizer": job.offload})


def launched(job: Job, launch: str) -> Job:
    """The job by another strategy; a single process is one whatever is asked for."""
    return replace(job, launch=launch, processes=1 if launch == "single" else job.processes)
