"""Floating-point operations that a token takes in a training.

For each token, each parameter that computes it takes 2 FLOPs in the forward pass and 4 in the
backward pass if it learns, else 2. The attention takes 2 L Q in each layer, with rows of L tokens
and queries of width Q (two matrix products, half of them masked), and twice that in the backward
pass (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Activation checkpointing computes the
forward pass of the layers twice. Of low-rank experts, the base's MLP counts once for a token, and
the factors for each expert that computes it. Every token counts as one with a label.
"""

from xft.estimates.parameters import Models

FORWARD, BACKWARD = 2, 4
WITHOUT_GRADIENT = 2  # of the backward pass, which a weight that does not learn leaves out


def tuning_flops(
    models: Models, active: int, length: int, checkpointing: bool = False, frozen: int = 0
) -> int:
    """FLOPs of a token in a tuning.

    active: the parameters that compute the token, such as `models.moe_active`. frozen: those of
    them that do not learn. length: of a row.
    """
    computing = active - models.base.embedding
    again = FORWARD * (computing - models.head) if checkpointing else 0
    whole = (FORWARD + BACKWARD) * computing - WITHOUT_GRADIENT * frozen
    return whole + again + (4 if checkpointing else 3) * _attention(models, length)


def mixture_flops(models: Models, length: int, checkpointing: bool = False) -> int:
    """FLOPs of a token in step 2."""
    active = models.moe_active + models.added_total
    return tuning_flops(models, active, length, checkpointing, models.frozen_active)


def dense_flops(
    models: Models, length: int, lora_rank: int | None = None, checkpointing: bool = False
) -> int:
    """FLOPs of a token in the tuning of the base. lora_rank: as for `Models.learned_of_base`."""
    if lora_rank is None:
        return tuning_flops(models, models.dense_total, length, checkpointing)
    active = models.dense_total + models.learned_of_base(lora_rank)
    frozen = models.dense_total - models.base.embedding
    return tuning_flops(models, active, length, checkpointing, frozen)


def mixing_flops(models: Models, length: int, checkpointing: bool = False) -> int:
    """FLOPs of a token in step 6, where the merged MLPs alone have gradients."""
    frozen = models.dense_total - models.base.embedding - models.ffn
    return tuning_flops(models, models.dense_total, length, checkpointing, frozen)


def teacher_flops(models: Models, length: int) -> int:
    """FLOPs of a token in the forward pass of the mixture, the teacher of a training by KL."""
    return FORWARD * (models.moe_active - models.base.embedding) + _attention(models, length)


def tuning_ratio(models: Models, length: int, lora_rank: int | None = None) -> float:
    """FLOPs of a token in the tuning of the mixture, divided by those in the tuning of the base.

    Both count forward and backward pass, the attention, and all weights that compute the token,
    with those of the router and its noise. Weights that do not learn have no gradient. Both leave
    out embeddings that are only looked up, the optimiser, and what activation checkpointing
    computes again, which is the same part of both. length: of a row. lora_rank: as for
    `dense_flops`.
    """
    return mixture_flops(models, length) / dense_flops(models, length, lora_rank)


def _attention(models: Models, length: int) -> int:
    """FLOPs of a token in one forward pass."""
    return 2 * length * models.base.query_width * len(models.layers)
