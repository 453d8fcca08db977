"""Trainings and generations as jobs on a processor: how they run, their FLOPs and their hours."""

import math
import os
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from xft.common.gpus import find_gpu
from xft.config.sections import EvaluationConfig, WorkflowConfig
from xft.config.training import SHARDED, ZERO_STAGES, TrainingConfig, precision_of
from xft.estimates.model_sizes import FORWARD, Models, ModelTable, training_flops
from xft.estimates.rows import Batches, Lengths

GIB = 2**30
DEFAULT_UTILISATION = 0.3
# Bytes a second from the host's memory to its CPU, and to a GPU over PCIe 4. Assumed.
HOST_BANDWIDTH = 10e9
LAUNCHES = ("single", "ddp", *SHARDED)
FP32, BF16 = 4, 2  # bytes of a value
PROMPT_TOKENS = 512  # of each problem; assumed
JUDGING_SECONDS = 0.2  # of one core for a solution: measured with HumanEval+ and C++ programs
READS = 2  # of all experts in a step of the mixing: for the merge, and for the gradients


@dataclass(frozen=True)
class Processor:
    """A CPU or a GPU.

    bf16, fp32: FLOPs a second, dense, without sparsity and TF32; 0 if they are unknown.
    bandwidth: of its memory, bytes a second.
    memory: in GiB; None if it is unknown.
    layer_seconds: the least time of a decoder layer, in which transformers starts its kernels;
    assumed. A CPU has none.
    """

    bf16: float
    fp32: float
    bandwidth: float = HOST_BANDWIDTH
    memory: float | None = None
    layer_seconds: float = 0

    def flops(self, precision: str) -> float:
        return self.fp32 if precision == "fp32" else self.bf16

    def reached(self, utilisation: float) -> "Processor":
        """The same with the share of its FLOPs that a training reaches."""
        return replace(self, bf16=self.bf16 * utilisation, fp32=self.fp32 * utilisation)


TABLE = tomllib.loads(Path(__file__).with_name("gpus.toml").read_text())
GPUS = {name: Processor(**known) for name, known in TABLE.items()}
CPU = Processor(0, 0, memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB)


def this_gpu() -> tuple[str, Processor] | None:
    """The GPU of this machine by its key in GPUS, or else by its own name; None without one."""
    found = find_gpu()
    if found is None:
        return None
    memory, name = found
    words = name.lower().replace("rtx ", "rtx").replace("-", " ").split()
    known = [word for word in words if word in GPUS]
    if known:
        return known[0], replace(GPUS[known[0]], memory=memory)
    of_unknown_speed = GPUS["a10"].reached(0)
    return name, replace(of_unknown_speed, memory=memory)


@dataclass(frozen=True)
class TrainingJob:
    """How a training runs.

    section: of the configuration.
    options: the section's values.
    length: of the window, in tokens.
    processes: on all nodes.
    on_gpu: false for a CPU.
    expected: the batches of rows as they are; None if every row fills the window.
    """

    section: str
    options: TrainingConfig
    length: int
    launch: str
    processes: int
    on_gpu: bool
    expected: Batches | None = None

    def with_rows(self, lengths: Lengths | None) -> "TrainingJob":
        """The same with rows as long as these; None if that is unknown."""
        if lengths is None:
            return self
        passes = None
        if self.options.max_steps or lengths.rows:
            steps = self.options.steps(lengths.rows or 0, self.global_batch)
            passes = steps * self.options.gradient_accumulation_steps
        return replace(self, expected=lengths.batches(self.options, passes))

    @property
    def batches(self) -> Batches:
        """The batch that a process computes at a time."""
        if self.expected is not None:
            return self.expected
        size = self.options.per_device_train_batch_size
        length = self.length
        return Batches(largest=size * length, longest=length, row=length, context=length)

    @property
    def is_mixing(self) -> bool:
        return self.options.trains == "shares"

    @property
    def is_of_mixture(self) -> bool:
        return self.options.trains == "mixture"

    @property
    def precision(self) -> str:
        return precision_of(self.options, has_bf16=self.on_gpu)

    @property
    def tokens(self) -> int:
        """The number of tokens of the largest micro-batch, with padding."""
        return self.batches.largest

    @property
    def global_batch(self) -> int:
        """The number of rows of an optimiser step."""
        options = self.options
        micro_batches = options.gradient_accumulation_steps * self.processes
        return options.per_device_train_batch_size * micro_batches

    @property
    def share(self) -> int:
        """The number of processes that share the sharded tensors."""
        return self.processes if self.launch in SHARDED else 1

    @property
    def zero(self) -> bool:
        return self.launch in ZERO_STAGES

    @property
    def autocast(self) -> bool:
        """Whether products take bf16 copies of weights and residual stream in fp32."""
        return self.precision == "bf16" and self.launch in ("single", "ddp")

    @property
    def product_bytes(self) -> int:
        """Bytes of a value in a matrix product."""
        return FP32 if self.precision == "fp32" else BF16

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight that learns, and of its gradient."""
        low = self.precision == "bf16_pure" or (self.precision == "bf16" and self.zero)
        return BF16 if low else FP32

    @property
    def fault(self) -> str | None:
        """The reason why the settings cannot be combined; None if they can."""
        return self.options.model_copy(update={"launch": self.launch}).fault_of_shards()


def configured_job(config: WorkflowConfig, section: str, on_gpu: bool | None = None) -> TrainingJob:
    """The job for a section of the configuration. on_gpu: None if as configured."""
    options = getattr(config, section)
    on_gpu = config.gpus > 0 if on_gpu is None else on_gpu
    length = config.data.max_length
    return TrainingJob(section, options, length, options.launch, options.world_size, on_gpu)


@dataclass(frozen=True)
class Work:
    """The work of a training.

    steps: of the optimiser.
    tokens: with padding.
    read_bytes: what each step moves from the host's memory to the device.
    """

    steps: int
    tokens: int
    flops: int
    read_bytes: int

    def hours(self, job: TrainingJob, processor: Processor) -> float:
        """Hours at most.

        processor: with the FLOPs that a process reaches.
        """
        seconds = self.flops / (job.processes * processor.flops(job.precision))
        return (seconds + self.steps * self.read_bytes / HOST_BANDWIDTH) / 3600


def training_work(models: Models, job: TrainingJob, rows: int | None) -> Work | None:
    """The work of a training, in all processes; None if the number of rows counts and is None."""
    options = job.options
    batch = job.global_batch
    if rows is None and not options.max_steps:
        return None
    steps = options.steps(rows or 0, batch)
    rows = steps * batch if options.max_steps else round(rows * options.num_train_epochs)
    read_bytes = READS * models.expert_bytes if job.is_mixing else 0
    trained = models.trained(job.options)
    tokens = round(rows * job.batches.row)
    context = round(job.batches.context)
    of_token = training_flops(models, trained, context, options.activation_checkpointing)
    return Work(steps, tokens, tokens * of_token, read_bytes)


def generation_bytes(table: ModelTable, precision: str, on_gpu: bool) -> int:
    """Bytes at most of the weights of a model that generates.

    precision: `evaluation.precision`. On a CPU the weights count as fp32 in any case: the losses of
    the same model are computed in fp32, and not every processor is faster in bf16.
    """
    if on_gpu and precision != "fp32":
        return table.nbytes
    return FP32 * sum(table.parameters.values())


def generation_seconds(
    models: Models, mixture: bool, problems: int, options: EvaluationConfig, processor: Processor
) -> float:
    """Seconds at most that the base or the mixture takes to generate solutions.

    Each solution has max_new_tokens. All weights, with those of all experts, are read once for each
    token of a batch.

    options: the config's section `evaluation`.
    processor: with the FLOPs that generation reaches.
    """
    samples = problems * options.samples
    steps = math.ceil(samples / options.batch_size) * options.max_new_tokens
    tokens = samples * (PROMPT_TOKENS + options.max_new_tokens)
    active = models.moe_active if mixture else models.dense_total
    on_gpu = processor.layer_seconds > 0
    table = models.mixture if mixture else models.base
    weights = generation_bytes(table, options.precision, on_gpu)
    reading = weights / processor.bandwidth + len(models.layers) * processor.layer_seconds
    precision = "bf16" if on_gpu and options.precision != "fp32" else "fp32"
    return FORWARD * active * tokens / processor.flops(precision) + steps * reading
