"""The trainings of a configuration, as jobs whose memory and time can be computed."""

from dataclasses import dataclass, replace

from xft.config.sections import WorkflowConfig
from xft.config.training import SHARDED, ZERO_STAGES, TrainingConfig, precision_of
from xft.estimates.lengths import Batches, Lengths

LAUNCHES = ("single", "ddp", *SHARDED)
FP32, BF16 = 4, 2  # bytes of a value


@dataclass(frozen=True)
class TrainingJob:
    """How a training runs.

    section: of the configuration. options: the section's values.
    length: of the window, in tokens. processes: on all nodes. on_gpu: false for a CPU. expected:
    the batches of rows as they are; None if every row fills the window.
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
        """What a process computes at a time."""
        size = self.options.per_device_train_batch_size
        whole = Batches(size * self.length, self.length, self.length, self.length)
        return self.expected or whole

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
    def offloads(self) -> bool:
        """Whether the CPU's memory holds the optimiser's state."""
        return self.options.offload_optimizer and self.launch in SHARDED

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
    length, launch = config.data.max_length, options.launch
    return TrainingJob(section, options, length, launch, options.world_size, on_gpu)
