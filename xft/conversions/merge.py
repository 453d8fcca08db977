"""Steps 5 and 7: mixing coefficients, and the dense weights that result from them.

For each tensor of the MLP, W = c_0 W_0 + sum_i c_i W_i with c_0 = lambda and
c_i = (1 - lambda) softmax(alpha)_i. W_0 is the shared expert, and i counts the routed experts (XFT,
arXiv 2404.15247, section 3.2).
"""

import torch

from xft.checkpoints.layout import moe_layers, outside
from xft.checkpoints.reader import TensorSource

ALPHA = "alpha"


def mixing_coefficients(alpha, shared_expert_weight: float):
    """c_0 (shared) and c_1 .. c_R: [..., 1 + R] in fp32, summing to one.

    alpha [..., R]; `shared_expert_weight` is lambda.
    """
    share = alpha.new_full((*alpha.shape[:-1], 1), shared_expert_weight, dtype=torch.float32)
    return torch.cat([share, (1 - share) * alpha.float().softmax(dim=-1)], dim=-1)


def alpha_shape(granularity: str, ffn: TensorSource) -> tuple[int, int, int]:
    """The shape of the mixing logits: R logits per layer, per projection, or for the model."""
    layers = moe_layers(ffn.names)
    first = layers[0]
    if first.low_rank:
        routed = ffn.shape(first.factor(first.form.output, "A"))[0] - 1
    else:
        routed = ffn.shape(first.fused()[0][0])[0]
    sets = {
        "layer": (len(layers), 1),
        "projection": (len(layers), len(first.form.projections)),
        "model": (1, 1),
    }
    return *sets[granularity], routed


def initial_logits(ffn: TensorSource, granularity: str):
    """The logits for the experts of an FFN artifact at the start: equal shares."""
    return torch.zeros(alpha_shape(granularity, ffn))


def unmerged(moe: TensorSource) -> dict[str, str]:
    """The tensors that the merged model takes unchanged from the mixture.

    Their names in the mixture, by their names in the merged model. Biases of LoRA experts are
    the base's, and so are not merged.
    """
    layers = moe_layers(moe.names)
    return {name: name for name in outside(moe.names, layers)} | {
        layer.dense(*tensor): layer.frozen(*tensor)
        for layer in layers
        for tensor in layer.tensors
        if tensor not in layer.merged
    }
