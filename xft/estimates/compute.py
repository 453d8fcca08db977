"""Tokens, floating-point operations and hours of a training, and hours of an evaluation."""

import math
from dataclasses import dataclass

from xft.config.sections import EvaluationConfig
from xft.config.training import TrainingConfig
from xft.estimates.disk import expert_bytes
from xft.estimates.flops import (
    FORWARD,
    dense_flops,
    mixing_flops,
    mixture_flops,
    teacher_flops,
)
from xft.estimates.gpus import HOST_BANDWIDTH, Gpu
from xft.estimates.memory import FP32, Job
from xft.estimates.parameters import Models
from xft.estimates.rows import Rows
from xft.estimates.tensors import TensorTable
from xft.training.steps import optimizer_steps

PROMPT_TOKENS = 512  # of each problem; assumed
READS = 2  # of all experts in a step of the mixing: for the merge, and for the gradients


@dataclass(frozen=True)
class Work:
    """The work of a training.

    steps: of the optimiser. tokens: if every row fills the window. likely: tokens by the length of
    the rows' text; None if the rows are not on this machine. flops: for `tokens`. read_bytes: what
    each step moves from the host's memory to the device.
    """

    steps: int
    tokens: int
    likely: int | None
    flops: float
    read_bytes: int

    def hours(self, job: Job, gpu: Gpu, utilisation: float) -> float:
        """Hours at most. utilisation: the share of a GPU's FLOPs that a training reaches."""
        seconds = self.flops / (job.processes * gpu.flops(job.precision) * utilisation)
        return (seconds + self.steps * self.read_bytes / HOST_BANDWIDTH) / 3600


def training_work(
    models: Models, job: Job, section: str, options: TrainingConfig, rows: Rows
) -> Work | None:
    """The work of a training, in all processes; None if the number of rows is unknown.

    section: the training's section of the configuration: moe_sft, mixing, sft or heal. options: the
    section's values.
    """
    in_a_step = job.batch.rows * job.accumulation * job.processes
    if options.max_steps:
        steps = options.max_steps
        passed = steps * in_a_step
    elif rows.number is None:
        return None
    else:
        steps = optimizer_steps(options, rows.number, in_a_step)
        passed = round(rows.number * options.num_train_epochs)
    length = job.batch.length
    tokens = passed * length
    likely = None if rows.tokens is None else round(passed * min(rows.tokens, length))
    labelled = 1 if getattr(options, "text", None) is not None else rows.labelled
    flops = tokens * _flops_per_token(models, job, section, options, labelled)
    read_bytes = READS * expert_bytes(models) if section == "mixing" else 0
    return Work(steps, tokens, likely, flops, read_bytes)


def _flops_per_token(
    models: Models, job: Job, section: str, options: TrainingConfig, labelled: float
) -> float:
    length, checkpointing = job.batch.length, job.checkpointing
    if section == "moe_sft":
        return mixture_flops(models, length, checkpointing, labelled)
    if section == "mixing":
        flops = mixing_flops(models, length, checkpointing, labelled)
    else:
        lora_rank = getattr(options, "lora_rank", None)
        flops = dense_flops(models, length, lora_rank, checkpointing, labelled)
    if getattr(options, "objective", "ce") == "kl":
        flops += teacher_flops(models, length, labelled)
    return flops


def generation_bytes(table: TensorTable, precision: str, on_gpu: bool) -> int:
    """Bytes at most of the weights of a model that generates.

    precision: `evaluation.precision`. On a CPU the weights count as fp32 in any case: the losses of
    the same model are computed in fp32, and not every processor is faster in bf16.
    """
    if on_gpu and precision != "fp32":
        return table.nbytes
    return FP32 * sum(table.parameters.values())


def generation_seconds(
    models: Models,
    mixture: bool,
    problems: int,
    options: EvaluationConfig,
    gpu: Gpu,
    utilisation: float,
) -> float:
    """Seconds at most that the base or the mixture takes to generate solutions.

    options: the config's section `evaluation`. utilisation: the share of the FLOPs that generation
    reaches. Each solution has max_new_tokens. All weights, with those of all experts, are read once
    for each token of a batch.
    """
    samples = problems * options.samples
    steps = math.ceil(samples / options.batch_size) * options.max_new_tokens
    tokens = samples * (PROMPT_TOKENS + options.max_new_tokens)
    active = models.moe_active if mixture else models.dense_total
    table = models.mixture if mixture else models.base
    on_gpu = gpu.memory > 0
    weights = generation_bytes(table, options.precision, on_gpu)
    reading = weights / gpu.bandwidth + len(models.layers) * gpu.layer_seconds
    flops = gpu.flops("bf16" if on_gpu and options.precision != "fp32" else "fp32")
    return FORWARD * active * tokens / (flops * utilisation) + steps * reading
