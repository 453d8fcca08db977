"""Memory and time that the steps ask a scheduler for, computed from the size of the base.

Memory is the host's, on one node. Time is a limit, for trainings and evaluations at most a day: if
they reach it, they continue in the next attempt. The margins are wide, because a job that asks for
too much only waits longer, but one that asks for too little is killed. All speeds and margins are
assumptions.
"""

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from xft.common.errors import UserError
from xft.config.sections import DataConfig, XftConfig
from xft.estimates.activations import chunk_bytes
from xft.estimates.compute import (
    PROMPT_TOKENS,
    generation_bytes,
    generation_seconds,
    training_work,
)
from xft.estimates.disk import expert_bytes
from xft.estimates.gpus import GPUS, RUNTIME_ON_CPU, Gpu, cpu
from xft.estimates.jobs import configured_job
from xft.estimates.memory import (
    FP32,
    SHARDED,
    Job,
    average_bytes,
    mixing_memory,
    tuning_memory,
    weight_bytes,
)
from xft.estimates.parameters import Models
from xft.estimates.rows import Rows
from xft.estimates.tensors import NEEDED_KEYS, TensorTable, has_weights, read_table

MB = 10**6
MINUTES, MOST_MINUTES = 60, 24 * 60  # limits; the second if the next attempt continues the work
MARGIN = 1.25  # factor of memory, for the allocator's losses and the pages of mapped files
# Libraries and two processes of Snakemake; on a GPU also CUDA.
LIBRARIES, LIBRARIES_ON_GPU = 2 * 10**9, 6 * 10**9
JUDGING = 2 * 10**9  # the programs that an evaluation runs
DISK_SPEED = 20e6  # bytes a second that a conversion writes to a busy disk
SLOW_GPU, UTILISATION = GPUS["a10"], 0.3
THREAD_FLOPS = 30e9  # of one CPU thread, in a second
ROW_BYTES = 500  # of a row in a file
PROBLEMS = 500  # of an evaluation
SLOWER = 3  # factor of time for a generation
TUNED_DENSE = ("sft", "heal")  # trainings of all weights of a dense model


@dataclass(frozen=True)
class Needs:
    """The request of a step's first attempt. mem_mb: 10^6 bytes on one node."""

    mem_mb: int
    minutes: int


# Requests while the size of the base is unknown. UNKNOWN_TRAINING is for each process of a node.
UNKNOWN_CONVERSION = Needs(4000, MINUTES)
UNKNOWN_TRAINING = Needs(16000, MOST_MINUTES)
UNKNOWN_EVALUATION = Needs(8000, MOST_MINUTES // 2)


@dataclass(frozen=True)
class Requests:
    """The requests of all steps. base: the folder of the base, which may not exist yet."""

    config: XftConfig
    base: Path

    @property
    def on_gpu(self) -> bool:
        return self.config.gpus > 0

    @property
    def libraries(self) -> int:
        return LIBRARIES_ON_GPU if self.on_gpu else LIBRARIES

    @property
    def models(self) -> Models | None:
        """The base and its mixture; None while the base is missing.

        Also None if the base cannot be upcycled. The steps then report the error.
        """
        with suppress(UserError):
            return self._models if has_weights(self.base) else None

    @cached_property
    def _models(self) -> Models | None:
        table = read_table(self.base)
        models = Models(table, self.config.moe)
        return models if models.mixture and set(NEEDED_KEYS) <= table.config.keys() else None

    def conversion(self) -> Needs:
        """The request of a step that holds a few tensors at a time, and writes all of them."""
        if self.models is None:
            return UNKNOWN_CONVERSION
        largest = FP32 * max(map(self.models.mixture.size, self.models.mixture.names))
        minutes = _minutes(self.models.mixture.nbytes / DISK_SPEED)
        return Needs(_mb(LIBRARIES + 4 * largest), max(minutes, MINUTES))

    def training(self, section: str) -> Needs:
        """The request of the training with a config's section, such as `moe_sft` or `mixing`."""
        options = getattr(self.config, section)
        processes = options.processes
        if self.models is None:
            unknown = UNKNOWN_TRAINING
            return replace(unknown, mem_mb=unknown.mem_mb * processes)
        nbytes = self._host(section) + processes * self.libraries
        return Needs(_mb(nbytes), self._training_minutes(section))

    def peak(self, section: str) -> int | None:
        """Bytes at most of a training on a CPU, on one node and without the margins of a request.

        None on a GPU, and while the base is missing.
        """
        if self.models is None or self.on_gpu:
            return None
        return self._host(section) + getattr(self.config, section).processes * RUNTIME_ON_CPU

    def _host(self, section: str) -> int:
        """Bytes of a node's memory for the processes of a training, without libraries."""
        options = getattr(self.config, section)
        models, job = self._trained(section)
        host = _mixing_host if section == "mixing" else _tuning_host
        nbytes = host(models, job, options.processes)
        if getattr(options, "objective", "ce") == "kl":
            nbytes += options.processes * _teacher_host(self.models, job)
        return nbytes

    def _trained(self, section: str) -> tuple[Models, Job]:
        """The models that a training is computed for, and its job."""
        world_size = getattr(self.config, section).world_size
        models = _smallest_mixture(self.models) if section in TUNED_DENSE else self.models
        return models, configured_job(self.config, section, world_size, self.on_gpu)

    def _training_minutes(self, section: str) -> int:
        _, job = self._trained(section)
        rows = Rows(_rows_at_most(self.config.data), None)
        # sft_flops asks for the same as sft, and takes as many FLOPs as the mixture's tuning.
        counted = "moe_sft" if section == "sft" else section
        work = training_work(self.models, job, counted, getattr(self.config, section), rows)
        if work is None:
            return MOST_MINUTES
        return _limit(3600 * work.hours(job, self._processor, UTILISATION))

    @property
    def _processor(self) -> Gpu:
        return SLOW_GPU if self.on_gpu else cpu(THREAD_FLOPS * self.config.threads)

    def evaluation(self, model: str) -> Needs:
        """The request of a model's evaluation or loss. model: its name in the results."""
        if self.models is None:
            return UNKNOWN_EVALUATION
        is_mixture = model.startswith("moe")
        table = self.models.mixture if is_mixture else self.models.base
        options = self.config.evaluation
        length = PROMPT_TOKENS + options.max_new_tokens
        weights = generation_bytes(table, options.precision, self.on_gpu)
        cache = 0 if self.on_gpu else options.batch_size * length * _cache_bytes(table)
        seconds = SLOWER * generation_seconds(
            self.models, is_mixture, PROBLEMS, options, self._processor, UTILISATION
        )
        return Needs(_mb(weights + cache + JUDGING + self.libraries), _limit(seconds))


def _tuning_host(models: Models, job: Job, processes: int) -> int:
    """Bytes of a node's memory for the processes of a tuning on it.

    On a CPU this is all of a process. With a GPU, each process first loads the whole model; if the
    model is sharded, one process gathers it again to write it. One process may hold an average,
    too.
    """
    memory = tuning_memory(models, job)
    if not job.on_gpu:
        return processes * memory.peak
    gathered = FP32 * models.moe_total if job.launch in SHARDED else 0
    average = average_bytes(models, job) if job.averages_on_host else 0
    return processes * (weight_bytes(job) * models.moe_total + memory.host) + gathered + average


def _mixing_host(models: Models, job: Job, processes: int) -> int:
    """The same for step 6, with the weights in files that each step reads."""
    memory = mixing_memory(models, job)
    files = expert_bytes(models) + memory.mapped
    return processes * (memory.weights if job.on_gpu else memory.peak) + files


def _teacher_host(models: Models, job: Job) -> int:
    """Bytes of the mixture that a process learns from, and on a CPU of its logits in a chunk."""
    logits = 0 if job.on_gpu else chunk_bytes(models, job.batch, job.numbers, job.on_gpu) // 2
    return job.numbers.compute * models.moe_total + logits


def _smallest_mixture(models: Models) -> Models:
    """A mixture with two experts, as an upper limit for a tuning of the base itself."""
    settings = {"num_experts": 2, "num_experts_per_tok": 2, "shared_expert": True}
    settings |= {"experts": "full"}
    return Models(models.base, models.moe.model_copy(update=settings))


def _rows_at_most(data: DataConfig) -> int | None:
    """The approximate number of rows in a file; None if it is not on this machine."""
    file = Path(data.train)
    if not file.is_file():
        return None
    number = math.ceil(file.stat().st_size / ROW_BYTES)
    return min(number, data.limit or number)


def _cache_bytes(table: TensorTable) -> int:
    """Bytes of a token's keys and values on a CPU."""
    layers, heads = table.config["num_hidden_layers"], table.heads
    return 2 * FP32 * layers * heads.key * heads.size


def _mb(nbytes: float) -> int:
    return math.ceil(MARGIN * nbytes / MB)


def _minutes(seconds: float) -> int:
    return math.ceil(seconds / 60)


def _limit(seconds: float) -> int:
    """The limit in minutes for a job whose next attempt continues its work."""
    return min(max(_minutes(seconds), MINUTES), MOST_MINUTES)
