"""Floating-point operations that a token takes in a training.

For each token, each parameter that computes it takes 2 FLOPs in the forward pass and 4 in the
backward pass if it learns, else 2. The attention takes 2 L Q in each layer, with rows of L tokens
and queries of width Q (two matrix products, half of them masked), and twice that in the backward
pass (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Activation checkpointing computes the
forward pass of the layers twice. Of LoRA experts, the base's MLP counts once for a token, and
the factors for each expert that computes it. Every token counts as one with a label.
"""

from xft.config.sections import MoeSftTraining, SftTraining
from xft.estimates.parameters import Models, Trained

FORWARD, BACKWARD = 2, 4
WITHOUT_GRADIENT = 2  # of the backward pass, which a weight that does not learn leaves out


def training_flops(
    models: Models, trained: Trained, length: int, checkpointing: bool = False
) -> int:
    """FLOPs of a token in a training.

    length: of a row.
    """
    embedding = models.base.embedding
    computing = trained.active - embedding
    frozen = trained.total - trained.learned - (0 if trained.whole else embedding)
    again = FORWARD * (computing - models.head) if checkpointing else 0
    whole = (FORWARD + BACKWARD) * computing - WITHOUT_GRADIENT * frozen
    return whole + again + (4 if checkpointing else 3) * _attention(models, length)


def tuning_ratio(models: Models, length: int, sft: SftTraining) -> float:
    """FLOPs of a token in the tuning of the mixture, divided by those in the tuning of the base.

    Both count forward and backward pass, the attention, and all weights that compute the token,
    with those of the router and its noise. Weights that do not learn have no gradient. Both leave
    out embeddings that are only looked up, the optimiser, and what activation checkpointing
    computes again, which is the same part of both.

    length: of a row.
    sft: the options of the base's tuning.
    """
    mixture, base = models.trained(MoeSftTraining()), models.trained(sft)
    return training_flops(models, mixture, length) / training_flops(models, base, length)


def _attention(models: Models, length: int) -> int:
    """FLOPs of a token in one forward pass."""
    return 2 * length * models.base.query_width * len(models.layers)
