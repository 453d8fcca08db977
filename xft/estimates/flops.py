"""Floating-point operations that a token takes in a training.

For each token, each parameter that computes it takes 2 FLOPs in the forward pass and 4 in the
backward pass if it learns. The head computes only the tokens with a label. The attention takes
2 L Q in each layer, with rows of L tokens and queries of width Q (two matrix products, half of them
masked), and twice that in the backward pass (Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
Activation checkpointing computes the forward pass of the layers twice. Of low-rank experts, the
base's MLP counts once for a token, and the factors for each expert that computes it.
"""

from xft.estimates.parameters import Models

FORWARD, BACKWARD = 2, 4


def tuning_flops(
    models: Models, active: int, length: int, checkpointing: bool = False, labelled: float = 1
) -> float:
    """FLOPs of a token if all weights are tuned.

    active: the parameters that compute the token, such as `models.moe_active`. length: of a row.
    labelled: the share of the tokens that have a label.
    """
    body = active - models.base.embedding - models.head
    head = labelled * models.head
    attention = _attention(models, length, checkpointing)
    return _forward(checkpointing) * body + FORWARD * head + BACKWARD * (body + head) + attention


def mixture_flops(
    models: Models, length: int, checkpointing: bool = False, labelled: float = 1
) -> float:
    """FLOPs of a token in step 2. Frozen weights pass gradients on but have none of their own."""
    active = models.moe_active + models.added_total
    unlabelled = 0 if models.learns_rest else (1 - labelled) * models.head
    without_gradient = BACKWARD // 2 * (models.frozen_active - unlabelled)
    return tuning_flops(models, active, length, checkpointing, labelled) - without_gradient


def dense_flops(
    models: Models,
    length: int,
    lora_rank: int | None = None,
    checkpointing: bool = False,
    labelled: float = 1,
) -> float:
    """FLOPs of a token in the tuning of the base. lora_rank: as for `Models.learned_of_base`."""
    if lora_rank is None:
        return tuning_flops(models, models.dense_total, length, checkpointing, labelled)
    active = models.dense_total + models.learned_of_base(lora_rank)
    frozen = models.dense_total - models.base.embedding - (1 - labelled) * models.head
    without_gradient = BACKWARD // 2 * frozen
    return tuning_flops(models, active, length, checkpointing, labelled) - without_gradient


def mixing_flops(
    models: Models, length: int, checkpointing: bool = False, labelled: float = 1
) -> float:
    """FLOPs of a token in step 6. Frozen weights pass gradients on but have none of their own."""
    body = models.dense_total - models.base.embedding - models.head
    head = labelled * models.head
    backward = BACKWARD // 2 * (body + head + models.ffn)
    attention = _attention(models, length, checkpointing)
    return _forward(checkpointing) * body + FORWARD * head + backward + attention


def teacher_flops(models: Models, length: int, labelled: float = 1) -> float:
    """FLOPs of a token in the forward pass of the mixture, the teacher of a training by KL."""
    attention = _attention(models, length, checkpointing=False) // 3
    body = models.moe_active - models.base.embedding - models.head
    return FORWARD * (body + labelled * models.head) + attention


def tuning_ratio(models: Models, length: int, lora_rank: int | None = None) -> float:
    """FLOPs of a token in the tuning of the mixture, divided by those in the tuning of the base.

    Both count forward and backward pass, the attention, and all weights that compute the token,
    with those of the router and its noise. Weights that do not learn have no gradient. Both leave
    out embeddings that are only looked up, the optimiser, and what activation checkpointing
    computes again, which is the same part of both. Every token counts as one with a label. length:
    of a row. lora_rank: as for `dense_flops`.
    """
    return mixture_flops(models, length) / dense_flops(models, length, lora_rank)


def _forward(checkpointing: bool) -> int:
    return 2 * FORWARD if checkpointing else FORWARD


def _attention(models: Models, length: int, checkpointing: bool) -> int:
    heads = models.base.heads
    passes = 4 if checkpointing else 3
    return passes * 2 * length * heads.query * heads.size * len(models.layers)
