"""Disk space of each artifact, without tokenizers, configs and metrics (a few megabytes)."""

from dataclasses import dataclass

from xft.checkpoints.dtypes import DTYPE_BYTES
from xft.config.sections import XftConfig
from xft.estimates.jobs import SHARDED, Job, configured_job
from xft.estimates.memory import average_bytes, optimizer_bytes, sizes
from xft.estimates.parameters import Models
from xft.training.checkpoints import KEPT


@dataclass(frozen=True)
class Space:
    """Bytes of an artifact, or of all artifacts of this name."""

    name: str
    nbytes: int


def disk_space(models: Models, config: XftConfig) -> list[Space]:
    """The artifacts of a run in the order of its steps. The base is a folder of links, or 0 bytes.

    Checkpoints are there at most during their training. weighted_init and weighted_trained are too
    small to count.
    """
    mixture, base = models.mixture.nbytes, models.base.nbytes
    evaluated, count = config.evaluation.models, len(config.merge.lambdas)
    spaces = [Space("moe", mixture), *_tuned(models, config, "moe_sft", mixture)]
    if "sft" in evaluated:
        spaces += _tuned(models, config, "sft", base)
    if "sft_flops" in evaluated:
        spaces.append(Space("sft_flops", base))
    if not models.moe.shared_expert:
        return spaces
    merged = [name for name in ("uniform", "heal") if name in evaluated]
    spaces.append(Space("ffn", ffn_bytes(models)))
    return spaces + [Space(name, base * count) for name in ("dense", *merged)]


def _tuned(models: Models, config: XftConfig, section: str, nbytes: int) -> list[Space]:
    checkpoints = checkpoint_bytes(models, configured_job(config, section))
    return [Space(f"checkpoints of {section}", checkpoints), Space(section, nbytes)]


def checkpoint_bytes(models: Models, job: Job) -> int:
    """Bytes of all checkpoints at most: those that are kept, and the one being written.

    Each holds the weights that learn, the optimiser's state with ZeRO's master weights, and an
    average of the weights. Engines that shard weights write frozen ones too; DeepSpeed writes them
    twice if they are whole, as with zero2.
    """
    total, learned = sizes(models, job)
    frozen = (2 if job.launch == "zero2" else 1) * (total - learned)
    weights = learned + (frozen if job.launch in SHARDED else 0)
    state = optimizer_bytes(models, job) + average_bytes(models, job)
    return (KEPT + 1) * (job.weight_bytes * weights + state)


def ffn_bytes(models: Models) -> int:
    """Bytes of the experts' own FFN weights, the result of step 3."""
    return _file_width(models) * models.expert * models.moe.num_experts


def expert_bytes(models: Models) -> int:
    """Bytes of the FFN weights in the files that step 6 maps into memory.

    Low-rank experts also need the base's MLPs.
    """
    common = models.ffn if models.is_low_rank else 0
    return _file_width(models) * common + ffn_bytes(models)


def _file_width(models: Models) -> int:
    """Bytes of a weight of the MLPs in the files."""
    layer = models.upcycled[0]
    return DTYPE_BYTES[models.base.dtype(layer.dense(layer.form.output))]
