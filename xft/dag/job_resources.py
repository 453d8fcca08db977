"""The resources that jobs ask a scheduler for, computed from the size of the base.

Memory is the host's, on one node. Time is a limit, for trainings and evaluations at most a day: if
they reach it, they continue in the next attempt. The margins are wide, because a job that asks for
too much only waits longer, but one that asks for too little is killed. All speeds and margins are
assumptions.
"""

import math
import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from xft.common.errors import UserError
from xft.common.system import torchrun
from xft.config.runs import Run
from xft.config.sections import MIXTURES, DataConfig, WorkflowConfig
from xft.config.steps import STEPS
from xft.config.training import SHARDED, TrainingConfig
from xft.dag.nodes import Node
from xft.dag.step_jobs import STEP_JOBS, Request
from xft.estimates import jobs
from xft.estimates.jobs import FP32, GIB, GPUS, Processor, TrainingJob
from xft.estimates.memory_and_disk import training_memory
from xft.estimates.model_sizes import Models, check_sizes, has_weights, read_table, tuning_ratio
from xft.estimates.rows import Lengths, sample_lengths, stored_lengths
from xft.store.store import is_whole

MB = 10**6
MINUTES = 60  # the limit
MOST_MINUTES = 24 * 60  # if the next attempt continues the work
MARGIN = 1.25  # factor of memory, for the allocator's losses and the pages of mapped files
LIBRARIES = 2 * 10**9  # and two processes of Snakemake
LIBRARIES_ON_GPU = 6 * 10**9  # with CUDA
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
        largest = FP32 * max(table.size(name) for name in table.names)
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
        models = self.models
        job = jobs.configured_job(self.config, section)
        processes = job.options.processes
        memory = training_memory(models, job)
        files = models.expert_bytes if job.is_mixing else 0
        if not self.on_gpu:
            return processes * memory.peak + files
        total = models.trained(job.options).total
        loaded = job.weight_bytes * total + memory.host
        gathered = FP32 * total if job.launch in SHARDED else 0
        return processes * loaded + gathered + files

    def _training_minutes(self, section: str) -> int:
        job = jobs.configured_job(self.config, section)
        hours = self._hours(job)
        if section == "sft":  # sft_flops asks for the same as sft, and takes moe_sft's FLOPs
            options = self.config.sft_flops
            ratio = tuning_ratio(self.models, self.config.data.max_length, options)
            hours = max(hours, ratio * self._hours(replace(job, options=options)))
        return _limit(min(3600 * hours, 60 * MOST_MINUTES))

    def _hours(self, job: TrainingJob) -> float:
        """Hours at most; infinite if the number of rows is unknown."""
        work = jobs.training_work(self.models, job, _rows_at_most(self.config.data))
        return math.inf if work is None else work.hours(job, self._processor)

    @property
    def _processor(self) -> Processor:
        if self.on_gpu:
            processor = GPUS["a10"]
        else:
            speed = THREAD_FLOPS * self.config.threads
            processor = Processor(bf16=speed, fp32=speed)
        return processor.reached(jobs.DEFAULT_UTILISATION)

    def evaluation(self, is_mixture: bool) -> Request:
        """The request of a model's evaluation or loss."""
        if self.models is None:
            return Request(8000, MOST_MINUTES // 2)
        options = self.config.evaluation
        table = self.models.mixture if is_mixture else self.models.base
        length = jobs.PROMPT_TOKENS + options.max_new_tokens
        nbytes = jobs.generation_bytes(table, options.precision, self.on_gpu)
        if not self.on_gpu:  # keys and values
            layers = len(self.models.layers)
            nbytes += options.batch_size * length * 2 * FP32 * layers * table.key_width
        time = jobs.generation_seconds(self.models, is_mixture, PROBLEMS, options, self._processor)
        return Request(_mb(nbytes + JUDGING + self.libraries), _limit(SLOWER * time))


def _rows_at_most(data: DataConfig) -> int | None:
    """The approximate number of rows in all files; None if one is not on this machine."""
    files = [Path(file) for file in data.files]
    if not all(file.is_file() for file in files):
        return None
    total = 0
    for file, limit in zip(files, data.limits(len(files)), strict=True):
        number = math.ceil(file.stat().st_size / ROW_BYTES)
        total += number if limit is None else min(number, limit)
    return total


def _mb(nbytes: float) -> int:
    return math.ceil(MARGIN * nbytes / MB)


def _limit(seconds: float) -> int:
    """The limit in minutes for a job whose next attempt continues its work."""
    return min(max(math.ceil(seconds / 60), MINUTES), MOST_MINUTES)


def resources(node: Node) -> dict[str, object]:
    """The resources of an artifact's job, in its first attempt.

    mem_mb, minutes, threads, gpu: what it asks for.
    expected_gib, expected_gpu_gib: memory of the largest process on a CPU or a GPU, for trainings
    that are to run, if the rows are known.
    continues: whether a later attempt goes on, or begins again.
    start: the program that starts the step.
    file: of the artifact in its entry.
    online: whether it may use the network.
    priority, environment: of an evaluation.
    """
    if node.one_of:  # it makes one of these
        candidates = [resources(result) for result in node.one_of]
        largest = max(candidates, key=lambda asks: asks["mem_mb"])
        return {"priority": 0, "environment": "evaluation"} | largest
    config = node.config
    section = STEPS[node.step].section
    job = STEP_JOBS[node.step]
    request = _request(node)
    asks = {
        "mem_mb": request.mem_mb,
        "minutes": request.minutes,
        "threads": 1,
        "gpu": 0,
        "continues": job.continues,
        "start": "python",
        "file": node.file,
        "online": job.online,
    }
    if section:
        options = getattr(config, section)
        asks["threads"] = config.threads * options.processes
        asks["gpu"] = config.gpus * options.world_size
        asks["start"] = _start(config, options)
        asks["expected_gpu_gib" if config.gpus else "expected_gib"] = _expected(node, section)
    elif job.generates:
        is_of_base = Path(node.source("model").name).name == "base"
        asks["threads"] = config.threads
        asks["gpu"] = config.gpus
        asks["priority"] = 2 if is_of_base else 0
        asks["environment"] = node.recipe.options.get("evaluation.backend", "evaluation")
    elif job.threads:
        asks["threads"] = config.threads
    return asks


def memory(asked: dict, attempt: int) -> int:
    """MB of memory in an attempt: a half more each time, and at most twice as much."""
    return asked["mem_mb"] * min(attempt + 1, 4) // 2


def minutes(asked: dict, attempt: int) -> int:
    """The time limit in an attempt: as many times longer, unless the job goes on where it was."""
    if asked["continues"]:
        return asked["minutes"]
    return asked["minutes"] * attempt


def _request(node: Node) -> Request:
    job = STEP_JOBS[node.step]
    if job.cost:
        return job.cost
    if job.generates:
        request = requests(node).evaluation(of_mixture(node))
        return replace(request, minutes=job.minutes or request.minutes)
    section = STEPS[node.step].section
    if section:
        return requests(node).training(section)
    return requests(node).conversion()


def _expected(node: Node, section: str) -> float | None:
    """The memory in GiB of a training's process with rows as they are.

    None if it is not to run, or if the base or the rows are unknown.
    """
    models = requests(node).models
    if models is None or is_whole(node.entry):
        return None
    lengths = row_lengths(node.source("tokens"))
    if lengths is None:
        return None
    job = jobs.configured_job(node.config, section).with_rows(lengths)
    return round(training_memory(models, job).peak / GIB, 3)


@cache
def row_lengths(tokens: Node) -> Lengths | None:
    """The lengths of rows: of tokens in the store, or else of a sample; None if unknown.

    The steps tell what is wrong with the rows.
    """
    config = tokens.run.config
    with suppress(UserError, LookupError, OSError):
        if is_whole(tokens.entry):
            return stored_lengths(tokens.place)
        return sample_lengths(config.data, Path(config.base.model))
    return None


def nodes(options: TrainingConfig) -> dict[str, object]:
    """The resources of a training on several nodes: a task on each, which `srun` starts."""
    if options.nodes == 1:
        return {}
    # With a GPU the Slurm plugin takes tasks as tasks per GPU, unless that is 0.
    return {"nodes": options.nodes, "tasks": options.nodes, "tasks_per_gpu": 0, "mpi": "srun"}


def _start(config: WorkflowConfig, options: TrainingConfig) -> str:
    """The start of a training's command. On each node torchrun gets the node's GPUs."""
    if options.launch == "single":
        return "python"
    command = torchrun(options.processes, options.nodes)
    if config.gpus:
        command = f"python -m xft.common.gpus {config.gpus * options.processes} {command}"
    if options.nodes == 1:
        return command
    task = shlex.quote(f'exec {command} "$@"')
    return (
        f"srun --nodes={options.nodes} --ntasks-per-node=1 --kill-on-bad-exit=1 "
        f"--cpus-per-task={config.threads * options.processes} bash -c {task} task"
    )


def requests(node: Node) -> Requests:
    """The requests of an artifact's job. A base on the hub has no size until it is fetched."""
    model = Path(node.config.base.model)
    base = next(ancestor for ancestor in node.ancestors() if ancestor.step == "base").place
    return _requests(node.run, model if model.is_dir() else base)


@cache
def _requests(run: Run, base: Path) -> Requests:
    return Requests(run.config, base)


def of_mixture(evaluation: Node) -> bool:
    """Whether an evaluation, or a validation loss, is that of a mixture."""
    return Path(evaluation.source("model").name).name in MIXTURES
