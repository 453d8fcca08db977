"""Disk space of each artifact, without tokenizers, configs and metrics (a few megabytes)."""

from xft.checkpoints.header import DTYPE_BYTES
from xft.config.models import MIXTURES, MODEL_KINDS
from xft.config.training import KEPT, SHARDED
from xft.estimates.jobs import TrainingJob
from xft.estimates.memory import average_bytes, optimizer_bytes
from xft.estimates.parameters import Models


def artifact_bytes(models: Models, step: str) -> int:
    """Bytes of an artifact by its step or model. Links, as of base and ffn, count as 0.

    So do weighted_init and weighted_trained, which are small.
    """
    if step in MIXTURES:
        return models.mixture.nbytes
    return models.base.nbytes if step in MODEL_KINDS[1:] else 0


def checkpoint_bytes(models: Models, job: TrainingJob) -> int:
    """Bytes of all checkpoints at most: those that are kept, and the one being written.

    Each holds the weights that learn, the optimiser's state with ZeRO's master weights, and an
    average of the weights. Engines that shard weights write frozen ones too; DeepSpeed writes them
    twice if they are whole, as with zero2.
    """
    trained = models.trained(job.options)
    frozen = (2 if job.launch == "zero2" else 1) * (trained.total - trained.learned)
    weights = trained.learned + (frozen if job.launch in SHARDED else 0)
    state = optimizer_bytes(models, job) + average_bytes(models, job)
    return (KEPT + 1) * (job.weight_bytes * weights + state)


def expert_bytes(models: Models) -> int:
    """Bytes of the FFN weights in the files that step 6 maps into memory.

    LoRA experts also need the base's MLPs.
    """
    common = models.ffn if models.is_low_rank else 0
    layer = models.upcycled[0]
    width = DTYPE_BYTES[models.base.dtype(layer.dense(layer.form.output))]
    return width * (common + models.expert * models.moe.num_experts)
