"""Tokens, floating-point operations and hours of a training, and hours of an evaluation."""

import math
from dataclasses import dataclass

from xft.config.sections import EvaluationConfig
from xft.estimates.disk import expert_bytes
from xft.estimates.flops import FORWARD, training_flops
from xft.estimates.jobs import FP32, TrainingJob
from xft.estimates.parameters import Models
from xft.estimates.processors import HOST_BANDWIDTH, Processor
from xft.estimates.tensors import ModelTable

PROMPT_TOKENS = 512  # of each problem; assumed
JUDGING_SECONDS = 0.2  # of one core for a solution: measured with HumanEval+ and C++ programs
READS = 2  # of all experts in a step of the mixing: for the merge, and for the gradients


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
    if options.max_steps:
        steps = options.max_steps
        rows = steps * job.global_batch
    elif rows is None:
        return None
    else:
        steps = options.steps(rows, job.global_batch)
        rows = round(rows * options.num_train_epochs)
    read_bytes = READS * expert_bytes(models) if job.is_mixing else 0
    trained = models.trained(job.options)
    tokens, context = round(rows * job.batches.row), round(job.batches.context)
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
