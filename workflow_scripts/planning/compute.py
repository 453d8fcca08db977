"""Tokens, floating-point operations and hours of a training.

For each token the forward pass takes 2 FLOPs for each parameter that computes it, the backward
pass 4 where weights learn, and the attention 2 L Q a layer (both matrix products, half of them
masked), with rows of L tokens and queries of width Q; backward twice that (Kaplan et al. 2020,
arXiv 2001.08361, section 2.1). Activation checkpointing computes the forward pass twice.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from workflow_scripts.planning.architectures import read_heads
from workflow_scripts.planning.disk import expert_bytes
from workflow_scripts.planning.gpus import HOST_BANDWIDTH, Gpu
from workflow_scripts.planning.memory import Job
from workflow_scripts.planning.parameters import Models
from workflow_scripts.planning.rows import Rows

FORWARD, BACKWARD = 2, 4
READS = 2  # of the experts in a step of the mixing: to merge, and for the gradients


@dataclass(frozen=True)
class Work:
    """steps of the optimiser; tokens at most; likely: tokens by the length of the rows' text, None
    where the rows are not on this machine; flops: of the tokens at most; read_bytes: what each step
    moves from the host's memory to where it computes.
    """

    steps: int
    tokens: int
    likely: int | None
    flops: float
    read_bytes: int

    def hours(self, job: Job, gpu: Gpu, utilisation: float) -> float:
        """Hours at most. utilisation: the share of a GPU's FLOPs that a training gets."""
        seconds = self.flops / (job.processes * gpu.flops(job.precision) * utilisation)
        return (seconds + self.steps * self.read_bytes / HOST_BANDWIDTH) / 3600


def training_work(models: Models, job: Job, options: dict, rows: Rows, mixing: bool) -> Work | None:
    """The work of a training with the options of its section; None for an unknown number of rows.

    Counts the rows of all processes.
    """
    in_a_step = job.batch.rows * job.accumulation * job.processes
    if options["max_steps"]:
        steps = options["max_steps"]
        passed = steps * in_a_step
    elif rows.number is None:
        return None
    else:
        steps = math.ceil(Fraction(options["epochs"]) * math.ceil(rows.number / in_a_step))
        passed = round(rows.number * options["epochs"])
    length = job.batch.length
    tokens = passed * length
    likely = None if rows.tokens is None else round(passed * min(rows.tokens, length))
    flops = tokens * _flops_per_token(models, job, mixing)
    return Work(steps, tokens, likely, flops, READS * expert_bytes(models) if mixing else 0)


def _flops_per_token(models: Models, job: Job, mixing: bool) -> float:
    heads = read_heads(models.base.config)
    attention = 2 * job.batch.length * heads.query * heads.size * len(models.layers)
    passes = 4 if job.checkpointing else 3
    again = FORWARD if job.checkpointing else 0
    lookups = models.base.embedding
    if mixing:  # frozen weights pass gradients on, and have none
        frozen = models.dense_total - lookups
        backward = BACKWARD / 2 * (frozen + models.ffn)
        return (FORWARD + again) * frozen + backward + passes * attention
    active = models.moe_active - lookups
    return (FORWARD + again + BACKWARD) * active + passes * attention
