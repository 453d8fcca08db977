"""The keys of the trainings in the configuration, and the checks of their combinations."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from xft.common.user_code import Names
from xft.config.section import CodeText, Needs, Section, UniqueList, Unrecorded

CALLBACK = Names(("self",))
ZERO_STAGES = ("zero2", "zero3")
SHARDED = ("fsdp", *ZERO_STAGES)  # launches that share tensors among the processes
# Keys that decide nothing beside another one that is given.
IDLE_BESIDE = {"num_train_epochs": "max_steps"}
CHUNK_TOKENS = 512  # A training computes the logits of as many tokens at a time.
KEPT = 2  # checkpoints; a second one, because the newest may be damaged
# And the softmax of as many logits, on a CPU and (True) on a GPU.
BLOCK_LOGITS = {False: 2**20, True: 2**24}
# Optimisers for launches that shard their state. They give the same result on shards of any form.
SHARDED_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch")


class TrainingConfig(Section):
    """Keys of all trainings. Their names are those of transformers' TrainingArguments, if it
    has such a key.

    trains: what a training changes: the mixture; a dense model, the base or one of its size; or the
        shares of the experts in a merged model.
    """

    trains: ClassVar[Literal["mixture", "dense", "shares"]] = "dense"

    num_train_epochs: float = Field(4.0, gt=0)
    """Passes over the training rows."""

    max_steps: int | None = Field(None, ge=1)
    """Optimiser steps. If it is given, num_train_epochs has no effect."""

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

    optim: Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit", "adafactor"] = (
        "adamw_torch_fused"
    )
    """adamw_torch_fused: AdamW without weight decay, in one kernel. adamw_torch: the same in many
    kernels, which is slower and rounds differently. adamw_8bit: the same with its state in 8 bits;
    it needs bitsandbytes. adafactor: at the given rate, as published."""

    max_grad_norm: float | None = Field(None, gt=0)
    """Clip the gradient at this norm. The published settings do not clip."""

    precision: Literal["auto", "fp32", "bf16", "bf16_pure"] = "auto"
    """auto: bf16 on a GPU that supports it, otherwise fp32. bf16: computation in bf16 with fp32
    master weights. bf16_pure: weights, gradients and optimiser in bf16, as published. It needs half
    the memory and loses small updates."""

    activation_checkpointing: bool = False
    """Compute the activations of each layer again in the backward pass instead of keeping them.
    This needs less memory and more time, and gives the same result."""

    eval_steps: int | None = Field(None, ge=1)
    """Optimiser steps between two measurements of the validation loss. There is always one at the
    end. null: only that one."""

    keep: Annotated[Literal["last", "best"], Needs("eval_steps")] = "last"
    """Weights that become the artifact: those after the last step, or those with the lowest
    validation loss."""

    early_stopping_patience: Annotated[int | None, Needs("eval_steps")] = Field(None, ge=1)
    """Stop after this number of validations without a new lowest loss. null: never."""

    batching: Literal["padded", "by_length", "packed"] = "padded"
    """padded: the rows of a batch are padded to the longest, as published. by_length: the same,
    with rows of similar length in each batch. packed: the rows follow each other in one sequence
    without padding. Each row attends only to itself, and the loss is the same."""

    callbacks: Annotated[UniqueList[CodeText], CALLBACK] = []
    """Classes in Python files, such as my_callbacks.py:Mine(share=0.5): transformers
    TrainerCallbacks, made with these arguments (docs/extending.md). For launch single and ddp."""

    save_minutes: Annotated[float, Unrecorded] = Field(10.0, ge=0)
    """Minutes between checkpoints, or more if saving is slow. An interrupted training continues
    from the newest. A change makes no step run again."""

    launch: Literal["single", "ddp", "fsdp", "zero2", "zero3"] = "single"
    """How processes train together. ddp: each has the whole model. fsdp, zero3: weights, gradients
    and optimiser are sharded. zero2: only gradients and optimiser are sharded. docs/training.md
    shows which settings can be combined."""

    processes: int = Field(1, ge=1)
    """Processes on each node that train together, one for each GPU. On a CPU each process has its
    own threads."""

    nodes: int = Field(1, ge=1)
    """Nodes of one Slurm job that train together."""

    @property
    def idle(self) -> dict[str, str]:
        """The keys that decide nothing beside a given one, with that one."""
        pairs = IDLE_BESIDE.items()
        return {key: given for key, given in pairs if getattr(self, given) is not None}

    @property
    def world_size(self) -> int:
        """The number of processes that train together."""
        return self.processes * self.nodes

    @property
    def global_batch(self) -> int:
        """The number of rows in an optimiser step of all processes."""
        batch = self.per_device_train_batch_size * self.gradient_accumulation_steps
        return batch * self.world_size

    @property
    def choices(self) -> list[str]:
        """The values for which a package may have to be installed: `common.optional.PACKAGES`."""
        return [self.optim, self.launch]

    @model_validator(mode="after")
    def _settings_fit(self):
        fault = self.fault_of_steps(self.max_steps)
        if fault is not None:
            raise ValueError(fault)
        for fault in (self._fault_of_numbers(), self.fault_of_shards()):
            if fault is not None:
                raise ValueError(f"launch = {self.launch}: {fault}")
        return self

    def steps(self, rows: int, global_batch: int) -> int:
        """The optimiser steps that transformers' Trainer takes on this number of rows."""
        batches = math.ceil(rows / global_batch)
        return self.max_steps or math.ceil(self.num_train_epochs * batches)

    def with_steps_times(self, factor: float, rows: int) -> "TrainingConfig":
        """The options of a training with `factor` times the optimiser steps and warm-up steps.

        rows: to train on. Both products are rounded, and the training has at least one step. The
        result states its steps as `max_steps`, so `num_train_epochs` has no effect any more.
        """
        steps = max(round(factor * self.steps(rows, self.global_batch)), 1)
        warmup_steps = round(factor * self.warmup_steps)
        return self.model_copy(update={"max_steps": steps, "warmup_steps": warmup_steps})

    def fault_of_steps(self, steps: int | None) -> str | None:
        """The fault of keys that need more steps than the training has. steps: None if unknown."""
        if steps is None or self.warmup_steps <= steps:
            return None
        return (
            f"warmup_steps = {self.warmup_steps}: the training has {steps} steps, and would never "
            f"reach its learning rate. Set warmup_steps to at most {steps}"
        )

    def fault_of_validation(self, validation_rows: int) -> str | None:
        """The fault of a training that asks for validation losses and has no rows for them."""
        if self.eval_steps is None or validation_rows:
            return None
        given = f"eval_steps = {self.eval_steps}"
        return f"{given}: there are no validation rows. Set data.validation_rows"

    def fault_of_shards(self) -> str | None:
        """The fault if the launch excludes the optimiser, the offload, the precision or average."""
        if self.launch not in SHARDED:
            if self.offload_optimizer:
                return "offload_optimizer needs zero2, zero3 or fsdp. Choose one, or leave it out"
            return None
        if self.optim not in SHARDED_OPTIMIZERS:
            return (
                f"optim = {self.optim} may fail on shards, or change results. Choose "
                f"{' or '.join(SHARDED_OPTIMIZERS)}, or ddp"
            )
        if self.callbacks:
            return "callbacks need whole weights. Choose single or ddp, or leave them out"
        if self.launch in ZERO_STAGES and self.precision == "bf16_pure":
            return (
                "DeepSpeed cannot train with precision = bf16_pure: it keeps fp32 master weights. "
                "Choose bf16"
            )
        if self.ema_decay is not None:
            return (
                "ema_decay needs the whole weights after each optimiser step, and they are "
                "sharded. Choose single or ddp, or leave it out"
            )
        return None

    def _fault_of_numbers(self) -> str | None:
        if self.launch == "single" and self.world_size > 1:
            return (
                f"it runs one process, but processes = {self.processes} and nodes = {self.nodes}. "
                "Choose another launch, or set both to 1"
            )
        if self.launch in ("ddp", "fsdp") and self.world_size == 1:
            return "it needs at least two processes. Set processes, or choose launch = single"
        return None


class TuningConfig(TrainingConfig):
    """The keys for the training of all weights of a model."""

    offload_optimizer: bool = False
    """Keep the optimiser's state in the CPU's memory. For zero2, zero3 and fsdp. fsdp moves the
    weights too."""

    weight_decay: float = Field(0.0, ge=0)
    """Decoupled decay of all weights but biases and norms, as in transformers. 0 as published."""

    ema_decay: float | None = Field(None, gt=0, lt=1)
    """The artifact holds the exponential moving average of the weights: after each optimiser step
    average = ema_decay x average + (1 - ema_decay) x weights. For launch single and ddp. null: the
    weights after the last step."""

    @model_validator(mode="after")
    def _average_fits(self):
        if self.ema_decay is None:
            return self
        for key, allowed in (("keep", "last"), ("early_stopping_patience", None)):
            value = getattr(self, key)
            if value != allowed:
                raise ValueError(
                    f"ema_decay = {self.ema_decay}, {key} = {value}: the average goes up to the "
                    f"last step. Set {key} to {allowed or 'null'}, or ema_decay to null"
                )
        return self


class MixingTraining(TrainingConfig):
    """The keys for the training of the mixing coefficients. All other weights are frozen."""

    trains: ClassVar[str] = "shares"
    offload_optimizer: ClassVar[bool] = False
    ema_decay: ClassVar[None] = None

    num_train_epochs: float = Field(1.0, gt=0)
    """Passes over the training rows."""

    learning_rate: float = Field(1e-2, gt=0)
    """Peak learning rate."""

    launch: Literal["single", "ddp"] = "single"
    """How processes train together. ddp: each has the whole model. There is nothing to shard,
    because only the coefficients learn."""


def precision_of(options: TrainingConfig, has_bf16: bool) -> str:
    """The precision of a training. has_bf16: whether a GPU can compute in bf16."""
    if options.precision != "auto":
        return options.precision
    return "bf16" if has_bf16 else "fp32"


def fault_of_devices(options: TrainingConfig, gpus: int) -> str | None:
    """The fault if a machine has too few GPUs. Without any GPU a training runs on the CPU."""
    if options.launch == "fsdp" and gpus == 0:
        return (
            "launch = fsdp: it needs GPUs, and this machine has none. On a CPU accelerate would "
            "silently train with plain DDP. Choose ddp, zero2 or zero3"
        )
    if gpus and options.processes > gpus:
        return f"processes = {options.processes}: each process needs a GPU, and there are {gpus}"
    return None
