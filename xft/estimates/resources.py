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
from xft.config.sections import DataConfig, WorkflowConfig
from xft.config.steps import Request
from xft.config.training import SHARDED
from xft.estimates.disk import expert_bytes
from xft.estimates.flops import tuning_ratio
from xft.estimates.jobs import FP32, TrainingJob, configured_job
from xft.estimates.memory import training_memory
from xft.estimates.parameters import Models
from xft.estimates.processors import DEFAULT_UTILISATION, GPUS, Processor
from xft.estimates.tensors import check_sizes, has_weights, read_table
from xft.estimates.work import PROMPT_TOKENS, generation_bytes, generation_seconds, training_work

MB = 10**6
MINUTES, MOST_MINUTES = 60, 24 * 60  # limits; the second if the next attempt continues the work
MARGIN = 1.25  # factor of memory, for the allocator's losses and the pages of mapped files
# Libraries and two processes of Snakemake; on a GPU also CUDA.
LIBRARIES, LIBRARIES_ON_GPU = 2 * 10**9, 6 * 10**9
JUDGING = 2 * 10**9  # the programs that an evaluation runs
DISK_SPEED = 20e6  # bytes a second that a conversion writes to a busy disk
THREAD_FLOPS = 30e9  # of one CPU thread, in a second
ROW_BYTES = 500  # of a row in a file
PROBLEMS = 500  # of an evaluation
SLOWER = 3  # factor of time for a generation


@dataclass(frozen=True)
class Requests:
    """The requests of all steps. base: the folder of the base, which may not exist yet.

    While it does not, and if it cannot be upcycled, the requests are those of a small model. The
    steps then report the error.
    """

    config: WorkflowConfig
    base: Path

    @property
    def on_gpu(self) -> bool:
        return self.config.gpus > 0

    @property
    def libraries(self) -> int:
        return LIBRARIES_ON_GPU if self.on_gpu else LIBRARIES

    @property
    def models(self) -> Models | None:
        """The base and its mixture; None while they are unknown."""
        with suppress(UserError):
            return self._models if has_weights(self.base) else None

    @cached_property
    def _models(self) -> Models:
        """Raises UserError if the base cannot be upcycled."""
        table = read_table(self.base)
        check_sizes(table.config, self.base)
        models = Models(table, self.config.moe)
        return models if models.mixture else None

    def conversion(self) -> Request:
        """The request of a step that holds a few tensors at a time, and writes all of them."""
        if self.models is None:
            return Request(4000, MINUTES)
        table = self.models.mixture
        largest = FP32 * max(map(table.size, table.names))
        minutes = math.ceil(table.nbytes / DISK_SPEED / 60)
        return Request(_mb(LIBRARIES + 4 * largest), max(minutes, MINUTES))

    def training(self, section: str) -> Request:
        """The request of the training with a config's section, such as `moe_sft` or `mixing`."""
        processes = getattr(self.config, section).processes
        if self.models is None:
            return Request(16000 * processes, MOST_MINUTES)
        nbytes = self._host(section) + processes * self.libraries
        return Request(_mb(nbytes), self._training_minutes(section))

    def _host(self, section: str) -> int:
        """Bytes of a node's memory for the processes of a training.

        On a CPU this is all of a process. With a GPU, each process first loads the whole model; if
        it is sharded, one process gathers it again to write it. Step 6 reads the experts from
        files in each step.
        """
        models, job = self.models, configured_job(self.config, section)
        processes, memory = job.options.processes, training_memory(models, job)
        files = expert_bytes(models) if job.is_mixing else 0
        if not self.on_gpu:
            return processes * memory.peak + files
        total = models.trained(job.options).total
        loaded = job.weight_bytes * total + memory.host
        gathered = FP32 * total if job.launch in SHARDED else 0
        return processes * loaded + gathered + files

    def _training_minutes(self, section: str) -> int:
        hours = self._hours(configured_job(self.config, section))
        if section == "sft":  # sft_flops asks for the same as sft, and takes moe_sft's FLOPs
            options, length = self.config.sft_flops, self.config.data.max_length
            of_flops = self._hours(replace(configured_job(self.config, section), options=options))
            hours = max(hours, of_flops * tuning_ratio(self.models, length, options))
        return _limit(min(3600 * hours, 60 * MOST_MINUTES))

    def _hours(self, job: TrainingJob) -> float:
        """Hours at most; infinite if the number of rows is unknown."""
        work = training_work(self.models, job, _rows_at_most(self.config.data))
        return math.inf if work is None else work.hours(job, self._processor)

    @property
    def _processor(self) -> Processor:
        speed = THREAD_FLOPS * self.config.threads
        processor = GPUS["a10"] if self.on_gpu else Processor(speed, speed)
        return processor.reached(DEFAULT_UTILISATION)

    def evaluation(self, is_mixture: bool) -> Request:
        """The request of a model's evaluation or loss."""
        if self.models is None:
            return Request(8000, MOST_MINUTES // 2)
        options = self.config.evaluation
        table = self.models.mixture if is_mixture else self.models.base
        length = PROMPT_TOKENS + options.max_new_tokens
        nbytes = generation_bytes(table, options.precision, self.on_gpu)
        if not self.on_gpu:  # keys and values
            layers = len(self.models.layers)
            nbytes += options.batch_size * length * 2 * FP32 * layers * table.key_width
        seconds = generation_seconds(self.models, is_mixture, PROBLEMS, options, self._processor)
        return Request(_mb(nbytes + JUDGING + self.libraries), _limit(SLOWER * seconds))


def _rows_at_most(data: DataConfig) -> int | None:
    """The approximate number of rows in all files; None if one is not on this machine."""
    files = [Path(file) for file in data.files]
    if not all(file.is_file() for file in files):
        return None
    numbers = [math.ceil(file.stat().st_size / ROW_BYTES) for file in files]
    return sum(map(min, numbers, (n or math.inf for n in data.limits(len(files)))))


def _mb(nbytes: float) -> int:
    return math.ceil(MARGIN * nbytes / MB)


def _limit(seconds: float) -> int:
    """The limit in minutes for a job whose next attempt continues its work."""
    return min(max(math.ceil(seconds / 60), MINUTES), MOST_MINUTES)
