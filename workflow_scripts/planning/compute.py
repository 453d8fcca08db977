"""Tokens, floating-point operations and hours of a training, and hours of an evaluation.

For each token, each parameter that computes it takes 2 FLOPs in the forward pass and 4 in the
backward pass if it learns. The attention takes 2 L Q in each layer, with rows of L tokens and
queries of width Q (two matrix products, half of them masked), and twice that in the backward pass
(Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Activation checkpointing computes the forward
pass twice.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from workflow_scripts.config.sections import EvaluationConfig
from workflow_scripts.config.training import TrainingConfig
from workflow_scripts.planning.disk import expert_bytes
from workflow_scripts.planning.gpus import HOST_BANDWIDTH, Gpu
from workflow_scripts.planning.memory import FP32, Job
from workflow_scripts.planning.parameters import Models
from workflow_scripts.planning.rows import Rows

FORWARD, BACKWARD = 2, 4
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
    models: Models, job: Job, options: TrainingConfig, rows: Rows, mixing: bool
) -> Work | None:
    """The work of a training, in all processes; None if the number of rows is unknown.

    options: the training's section of the configuration.
    """
    in_a_step = job.batch.rows * job.accumulation * job.processes
    if options.max_steps:
        steps = options.max_steps
        passed = steps * in_a_step
    elif rows.number is None:
        return None
    else:
        steps = math.ceil(Fraction(options.num_train_epochs) * math.ceil(rows.number / in_a_step))
        passed = round(rows.number * options.num_train_epochs)
    length = job.batch.length
    tokens = passed * length
    likely = None if rows.tokens is None else round(passed * min(rows.tokens, length))
    flops = tokens * _flops_per_token(models, job, mixing)
    return Work(steps, tokens, likely, flops, READS * expert_bytes(models) if mixing else 0)


def _flops_per_token(models: Models, job: Job, mixing: bool) -> float:
    heads = models.base.heads
    attention = 2 * job.batch.length * heads.query * heads.size * len(models.layers)
    passes = 4 if job.checkpointing else 3
    again = FORWARD if job.checkpointing else 0
    lookups = models.base.embedding
    if mixing:  # frozen weights pass gradients on but have none of their own
        frozen = models.dense_total - lookups
        backward = BACKWARD / 2 * (frozen + models.ffn)
        return (FORWARD + again) * frozen + backward + passes * attention
    active = models.moe_active - lookups
    return (FORWARD + again + BACKWARD) * active + passes * attention


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
    for each token of a batch. They are fp32 on a CPU, and on a GPU as they are stored.
    """
    samples = problems * options.samples
    steps = math.ceil(samples / options.batch_size) * options.max_new_tokens
    tokens = samples * (PROMPT_TOKENS + options.max_new_tokens)
    active = models.moe_active if mixture else models.dense_total
    table = models.mixture if mixture else models.base
    on_gpu = gpu.memory > 0
    weights = table.nbytes if on_gpu else FP32 * sum(table.parameters.values())
    reading = weights / gpu.bandwidth + len(models.layers) * gpu.layer_seconds
    flops = gpu.flops("bf16" if on_gpu else "fp32")
    return FORWARD * active * tokens / (flops * utilisation) + steps * reading
