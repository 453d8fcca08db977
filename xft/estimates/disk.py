"""Disk space of each artifact, without tokenizers, configs and metrics (a few megabytes)."""

from dataclasses import dataclass

from xft.checkpoints.dtypes import DTYPE_BYTES
from xft.checkpoints.layout import moe_layers
from xft.config.sections import XftConfig
from xft.conversions.extract import extract_ffn
from xft.estimates.memory import (
    FP32,
    SHARDED,
    Job,
    average_bytes,
    optimizer_bytes,
    weight_bytes,
)
from xft.estimates.parameters import Models
from xft.estimates.tensors import planned_table
from xft.training.checkpoints import KEPT


@dataclass(frozen=True)
class Space:
    """Bytes of an artifact, and a remark for the report, which may be empty."""

    name: str
    nbytes: int
    remark: str = ""


def disk_space(models: Models, config: XftConfig, job: Job) -> list[Space]:
    """The artifacts of a run in the order of its steps. job: the training of step 2."""
    mixture = models.mixture.nbytes
    evaluated = config.evaluation.models
    spaces = [
        Space("base", 0, f"links to {models.base.nbytes / 1e9:.1f} GB"),
        *(_baseline_space(models, job, config.sft.lora_rank) if "sft" in evaluated else []),
        Space("moe", mixture),
        Space("checkpoints of moe_sft", checkpoint_bytes(models, job), "at most, during training"),
        Space("moe_sft", mixture),
    ]
    if not models.moe.shared_expert:
        return spaces
    lambdas = config.merge.lambdas
    ffn = planned_table(extract_ffn(models.mixture), models.base)
    logits = FP32 * models.routed * _sets(models, config.mixing.granularity)
    each = f"for each lambda ({len(lambdas)})"
    kept = {"all": "", "best": "; the best one stays", "none": "; none stays"}
    return [
        *spaces,
        Space("ffn", ffn.nbytes),
        Space("weighted_init", logits * len(lambdas), each),
        Space("weighted_trained", logits * len(lambdas), each),
        *(
            Space(name, models.base.nbytes * len(lambdas), each + kept[config.merge.keep])
            for name in ("uniform", "dense")
            if name == "dense" or name in evaluated
        ),
    ]


def _baseline_space(models: Models, job: Job, lora_rank: int | None) -> list[Space]:
    """The space of sft. What learns in it takes less space in checkpoints than full experts, in the
    ratio of the parameters.
    """
    full = models.with_full_experts
    learned = models.learned_of_base(lora_rank)
    checkpoints = checkpoint_bytes(full, job) * learned // full.moe_total
    if lora_rank is not None:
        checkpoints += (KEPT + 1) * _frozen_bytes(models.dense_total, job)
    return [
        Space("checkpoints of sft", checkpoints, "at most, during training"),
        Space("sft", models.base.nbytes),
    ]


def checkpoint_bytes(models: Models, job: Job) -> int:
    """Bytes of all checkpoints at most: those that are kept, and the one being written.

    Each holds the weights that learn, the optimiser's state and the average of these weights, if
    there is one; with ZeRO also the fp32 master weights; with shards also the frozen weights.
    """
    one = weight_bytes(job) * models.learned_total + optimizer_bytes(models, job)
    one += average_bytes(models, job)
    one += _frozen_bytes(models.moe_total + models.added_total - models.learned_total, job)
    if job.zero:
        one += FP32 * models.learned_total
    return (KEPT + 1) * one


def _frozen_bytes(frozen: int, job: Job) -> int:
    """Bytes of so many frozen weights in a checkpoint. Engines that shard weights write all of
    them; DeepSpeed writes frozen ones twice if they are whole, as with zero2.
    """
    if job.launch not in SHARDED:
        return 0
    return weight_bytes(job) * frozen * (2 if job.launch == "zero2" else 1)


def _sets(models: Models, granularity: str) -> int:
    """The number of vectors of mixing logits."""
    layers = moe_layers(models.mixture.names)
    projections = len(layers[0].form.projections)
    return {"layer": len(layers), "projection": len(layers) * projections, "model": 1}[granularity]


def expert_bytes(models: Models) -> int:
    """Bytes of the experts' FFN weights in the files that step 6 maps into memory.

    Low-rank experts also need the base's MLPs.
    """
    width = DTYPE_BYTES[models.base.dtype(models.upcycled[0].dense(models.upcycled[0].form.output))]
    common = models.ffn if models.is_low_rank else 0
    return width * (common + models.expert * models.moe.num_experts)
