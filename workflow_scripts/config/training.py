"""The configuration's keys of a training, and which of them exclude each other."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from workflow_scripts.config.section import Section

ZERO_STAGES = {"zero2": 2, "zero3": 3}
# Those that shard the optimiser's state. They work alike on shards of any form.
SHARDED_OPTIMIZERS = ("adamw_torch",)


class TrainingConfig(Section):
    """What the three trainings have in common. Names are those of transformers' TrainingArguments,
    if it has such a key."""

    num_train_epochs: float = Field(4.0, gt=0)
    """Passes over the training rows."""

    max_steps: int | None = Field(None, ge=1)
    """Optimiser steps. If it is given, num_train_epochs does not count."""

    per_device_train_batch_size: int = Field(8, ge=1)
    """Rows in one forward pass of one process."""

    gradient_accumulation_steps: int = Field(1, ge=1)
    """Forward passes in one optimiser step. Global batch = per-device batch x accumulation x
    processes."""

    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate."""

    lr_scheduler_type: Literal[
        "linear", "cosine", "constant_with_warmup", "warmup_stable_decay"
    ] = "linear"
    """Course of the learning rate after the warm-up. warmup_stable_decay: constant, and linear to
    zero in the last tenth of the steps."""

    warmup_steps: int = Field(0, ge=0)
    """Optimiser steps over which the learning rate rises from zero. At most the steps of the
    training."""

    optim: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "adafactor"] = "adamw_torch"
    """AdamW without weight decay. adamw_torch_fused: the same as one kernel. adamw_8bit: with its
    state in 8 bits, if bitsandbytes is installed. adafactor: with the given rate, as published."""

    max_grad_norm: float | None = Field(None, gt=0)
    """Clip the gradient at this norm. The published recipe does not clip."""

    precision: Literal["auto", "fp32", "bf16", "bf16_pure"] = "auto"
    """auto: bf16 on a GPU that can, fp32 elsewhere. fp32. bf16: computation in bf16 over fp32
    master weights. bf16_pure: weights, gradients and optimiser in bf16, as published. It needs half
    the memory and loses small updates."""

    activation_checkpointing: bool = False
    """Compute the activations of each layer again in the backward pass and do not keep them: less
    memory, the same result."""

    eval_steps: int | None = Field(None, ge=1)
    """Optimiser steps between two losses on the validation rows. There is always one at the end.
    null: only that one."""

    keep: Literal["last", "best"] = "last"
    """Weights that become the artifact: those after the last step, or those with the lowest
    validation loss."""

    early_stopping_patience: int | None = Field(None, ge=1)
    """Stop after so many validation losses in a row that are no lower than the lowest before them.
    null: never."""

    batching: Literal["padded", "by_length", "packed"] = "padded"
    """padded: the rows of a batch are padded to the longest, as published. by_length: the same with
    rows of about one length in each batch. packed: end to end in one sequence without padding.
    There each row attends to itself only, and the loss is the same."""

    save_minutes: float = Field(10.0, ge=0)
    """Minutes between two checkpoints, from which a training that was cut off goes on. More if
    saving takes long. A change runs nothing again."""

    launch: Literal["single", "ddp", "fsdp", "zero2", "zero3"] = "single"
    """How processes train together. ddp: each has the whole model. fsdp, zero3: weights, gradients
    and optimiser are sharded. zero2: gradients and optimiser are. docs/training.md says which
    settings go together."""

    processes: int = Field(1, ge=1)
    """Processes on each node that train together, one for each GPU. On a CPU each has its own
    threads."""

    nodes: int = Field(1, ge=1)
    """Nodes of one Slurm job that train together."""

    @property
    def world_size(self) -> int:
        """How many processes train together."""
        return self.processes * self.nodes

    @model_validator(mode="after")
    def _settings_fit(self):
        if fault := self.fault_of_warmup(self.max_steps):
            raise ValueError(fault)
        if fault := self._fault_of_numbers() or fault_of_shards(
            self.launch, self.optim, self.precision, self.offload_optimizer
        ):
            raise ValueError(f"launch = {self.launch}: {fault}")
        return self

    def fault_of_warmup(self, steps: int | None) -> str | None:
        """What is wrong if the warm-up is longer than the training. steps: None: not known yet."""
        if steps is None or self.warmup_steps <= steps:
            return None
        return (
            f"warmup_steps = {self.warmup_steps}: the training has {steps} steps, and would not "
            f"reach its learning rate. Set warmup_steps to at most {steps}"
        )

    def fault_of_validation(self, validation_rows: int) -> str | None:
        """What is wrong if the training is to act on validation losses that it does not have."""
        defaults = {"eval_steps": None, "keep": "last", "early_stopping_patience": None}
        asked = [key for key, default in defaults.items() if getattr(self, key) != default]
        names = ", ".join(asked)
        if asked and not validation_rows:
            return f"{names}: there are no validation rows. Set data.validation_rows"
        if asked and self.eval_steps is None:
            return (
                f"{names}: without eval_steps there is one validation, at the end, and none to "
                "compare it with"
            )
        return None

    def _fault_of_numbers(self) -> str | None:
        if self.launch == "single" and self.world_size > 1:
            return (
                f"it is one process, but processes = {self.processes} and nodes = {self.nodes}. "
                "Choose another launch, or 1 for both"
            )
        if self.launch in ("ddp", "fsdp") and self.world_size == 1:
            return "it needs at least two processes. Set processes, or launch = single"
        return None


class TuningConfig(TrainingConfig):
    """The training of all weights of a model."""

    offload_optimizer: bool = False
    """Keep the optimiser's state in the CPU's memory. For zero2, zero3, and fsdp, which moves the
    weights too."""


class MixingTraining(TrainingConfig):
    """The training of the mixing coefficients. All else is frozen."""

    offload_optimizer: ClassVar[bool] = False
    balance_loss_batch: ClassVar[str] = "micro"

    num_train_epochs: float = Field(1.0, gt=0)
    """Passes over the training rows."""

    learning_rate: float = Field(1e-2, gt=0)
    """Peak learning rate."""

    launch: Literal["single", "ddp"] = "single"
    """How processes train together. ddp: each has the whole model. There is nothing to shard: all
    except the coefficients is frozen."""


def precision_of(options: TrainingConfig, has_bf16: bool) -> str:
    """The precision of a training. has_bf16: whether there is a GPU that computes in bf16."""
    automatic = "bf16" if has_bf16 else "fp32"
    return automatic if options.precision == "auto" else options.precision


def fault_of_shards(launch: str, optim: str, precision: str, offload: bool) -> str | None:
    """Why a launch excludes the optimiser, the precision or the offload; None if it does not."""
    is_sharded = launch == "fsdp" or launch in ZERO_STAGES
    if offload and not is_sharded:
        return "offload_optimizer goes with zero2, zero3 and fsdp only"
    if is_sharded and optim not in SHARDED_OPTIMIZERS:
        reason = (
            "fails on FSDP's shards"
            if launch == "fsdp"
            else "would work on flat shards, without rows and columns: it is another optimiser then"
        )
        return f"optim = {optim} {reason}. Choose {' or '.join(SHARDED_OPTIMIZERS)}, or ddp"
    if launch in ZERO_STAGES and precision == "bf16_pure":
        return (
            "precision = bf16_pure is not what DeepSpeed does: it keeps fp32 master weights. "
            "Choose bf16"
        )
    return None


def fault_of_devices(options: TrainingConfig, gpus: int) -> str | None:
    """What is wrong if a machine has too few GPUs. No GPU at all is right for a CPU."""
    if options.launch == "fsdp" and gpus == 0:
        return (
            "launch = fsdp: it needs GPUs, and there are none. On a CPU accelerate would train by "
            "plain DDP instead without a word. Choose ddp, zero2 or zero3"
        )
    if gpus and options.processes > gpus:
        return f"processes = {options.processes}: there are {gpus} GPUs, and each process needs one"
    return None
