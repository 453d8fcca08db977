"""Memory and time that the steps ask a scheduler for, from the size of the base.

Memory is the host's, of one node. Time is a limit; a training or an evaluation that reaches it goes
on in its next attempt, and asks for a day at most. A request too large waits longer, one too small
is killed, so the margins are wide. All speeds and margins are assumptions.
"""

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from workflow_scripts.common.errors import UserError
from workflow_scripts.config.sections import DataConfig, XftConfig
from workflow_scripts.planning.compute import (
    PROMPT_TOKENS,
    generation_seconds,
    training_work,
)
from workflow_scripts.planning.disk import expert_bytes
from workflow_scripts.planning.gpus import GPUS, Gpu, cpu
from workflow_scripts.planning.jobs import configured_job
from workflow_scripts.planning.memory import (
    FP32,
    SHARDED,
    Job,
    mixing_memory,
    tuning_memory,
    weight_bytes,
)
from workflow_scripts.planning.parameters import Models
from workflow_scripts.planning.rows import Rows
from workflow_scripts.planning.tensors import NEEDED_KEYS, TensorTable, has_weights, read_table

MB = 10**6
MINUTES, MOST_MINUTES = 60, 24 * 60  # at least, and at most where the next attempt goes on
MARGIN = 1.25  # of memory: what the allocator keeps, the pages of mapped files
LIBRARIES, LIBRARIES_ON_GPU = 2 * 10**9, 6 * 10**9  # with two processes of Snakemake; with CUDA
JUDGING = 2 * 10**9  # the programs of an evaluation
DISK_SPEED = 20e6  # bytes a second that a conversion writes to a busy disk
SLOW_GPU, UTILISATION = GPUS["a10"], 0.3
THREAD_FLOPS = 30e9  # a second, of one CPU thread
ROW_BYTES = 500  # of a row in a file
PROBLEMS = 500  # of an evaluation
SLOWER = 3  # than planned a generation may be


@dataclass(frozen=True)
class Needs:
    """What a step asks for in its first attempt. mem_mb: in 10^6 bytes, of one node."""

    mem_mb: int
    minutes: int


# Where the size of the base is not known yet; UNKNOWN_TRAINING for each process of a node.
UNKNOWN_CONVERSION = Needs(4000, MINUTES)
UNKNOWN_TRAINING = Needs(16000, MOST_MINUTES)
UNKNOWN_EVALUATION = Needs(8000, MOST_MINUTES // 2)


@dataclass(frozen=True)
class Requests:
    """What steps ask for under a completed configuration. base: its folder, if it is there yet."""

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
        """The base and its mixture; None until the base is there.

        None too where it cannot be upcycled, which the steps tell.
        """
        with suppress(UserError):
            return self._models if has_weights(self.base) else None

    @cached_property
    def _models(self) -> Models | None:
        table = read_table(self.base)
        models = Models(table, self.config.moe)
        return models if models.mixture and set(NEEDED_KEYS) <= table.config.keys() else None

    def conversion(self) -> Needs:
        """Of a step that streams tensors: a few of the largest at a time, and all to the disk."""
        if self.models is None:
            return UNKNOWN_CONVERSION
        largest = FP32 * max(map(self.models.mixture.size, self.models.mixture.names))
        minutes = _minutes(self.models.mixture.nbytes / DISK_SPEED)
        return Needs(_mb(LIBRARIES + 4 * largest), max(minutes, MINUTES))

    def training(self, section: str) -> Needs:
        """Of the step that the config's section `moe_sft`, `sft` or `mixing` belongs to."""
        options = getattr(self.config, section)
        processes = options.processes
        if self.models is None:
            unknown = UNKNOWN_TRAINING
            return replace(unknown, mem_mb=unknown.mem_mb * processes)
        job = configured_job(self.config, section, options.world_size, self.on_gpu)
        models = _smallest_mixture(self.models) if section == "sft" else self.models
        host = _mixing_host if section == "mixing" else _tuning_host
        nbytes = host(models, job, processes) + processes * self.libraries
        return Needs(_mb(nbytes), self._training_minutes(section, models, job))

    def _training_minutes(self, section: str, models: Models, job: Job) -> int:
        rows = Rows(_rows_at_most(self.config.data), None)
        options, mixing = getattr(self.config, section), section == "mixing"
        work = training_work(models, job, options, rows, mixing)
        if work is None:
            return MOST_MINUTES
        return _limit(3600 * work.hours(job, self._processor, UTILISATION))

    @property
    def _processor(self) -> Gpu:
        return SLOW_GPU if self.on_gpu else cpu(THREAD_FLOPS * self.config.threads)

    def evaluation(self, model: str) -> Needs:
        """Of the generation by a model, or its loss. model: its name in the results."""
        if self.models is None:
            return UNKNOWN_EVALUATION
        is_mixture = model.startswith("moe")
        table = self.models.mixture if is_mixture else self.models.base
        options = self.config.evaluation
        length = PROMPT_TOKENS + options.max_new_tokens
        weights = table.nbytes if self.on_gpu else FP32 * sum(table.parameters.values())
        cache = 0 if self.on_gpu else options.batch_size * length * _cache_bytes(table)
        seconds = SLOWER * generation_seconds(
            self.models, is_mixture, PROBLEMS, options, self._processor, UTILISATION
        )
        return Needs(_mb(weights + cache + JUDGING + self.libraries), _limit(seconds))


def _tuning_host(models: Models, job: Job, processes: int) -> int:
    """Bytes in the host's memory for so many processes of a node.

    On a CPU a process is all there; with a GPU it loads the whole model before it moves it, and
    where it is sharded, one process gathers it to write it.
    """
    memory = tuning_memory(models, job)
    if not job.on_gpu:
        return processes * memory.peak
    gathered = FP32 * models.moe_total if job.launch in SHARDED else 0
    return processes * (weight_bytes(job) * models.moe_total + memory.host) + gathered


def _mixing_host(models: Models, job: Job, processes: int) -> int:
    """The same of step 6, with the files' weights, which are read in each step."""
    memory = mixing_memory(models, job)
    files = expert_bytes(models) + memory.mapped
    return processes * (memory.weights if job.on_gpu else memory.peak) + files


def _smallest_mixture(models: Models) -> Models:
    """What a tuning of the base itself needs no more than: a shared expert and another one."""
    settings = {"num_experts": 2, "num_experts_per_tok": 2, "shared_expert": True}
    return Models(models.base, models.moe.model_copy(update=settings))


def _rows_at_most(data: DataConfig) -> int | None:
    """About how many rows a file holds; None where it is elsewhere."""
    file = Path(data.train)
    if not file.is_file():
        return None
    number = math.ceil(file.stat().st_size / ROW_BYTES)
    return min(number, data.limit or number)


def _cache_bytes(table: TensorTable) -> int:
    """Of keys and values of a token, on a CPU."""
    layers, heads = table.config["num_hidden_layers"], table.heads
    return 2 * FP32 * layers * heads.key * heads.size


def _mb(nbytes: float) -> int:
    return math.ceil(MARGIN * nbytes / MB)


def _minutes(seconds: float) -> int:
    return math.ceil(seconds / 60)


def _limit(seconds: float) -> int:
    """Minutes, where the next attempt goes on."""
    return min(max(_minutes(seconds), MINUTES), MOST_MINUTES)
