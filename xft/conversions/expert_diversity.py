"""Measures how far the experts of a mixture have moved apart, compared with how far they moved.

W_i is the vector of all MLP weights of expert i in a layer, and W_B that of the base; i counts all
E experts, the shared one included. M is the mean of the W_i. LoRA experts count as W_i = W_B +
s B_i A_i, with the base's biases.

- deviation = sqrt(mean_i |W_i - M|^2) / |W_B|
- shift = |M - W_B| / |W_B|
- spread = deviation / shift

The values of the whole model are those of the vectors over all upcycled layers.
"""

import math

import torch

from xft.checkpoints.layout import FfnLayer
from xft.checkpoints.reader import TensorSource
from xft.common.progress import progress
from xft.conversions.coefficients import alpha_shape
from xft.conversions.merged_tensors import merged_tensors, name_in_base, squared_norm

DIGITS = 6  # significant ones. The last digits of a sum in fp64 depend on the number of threads


def diversity(ffn: TensorSource, base: TensorSource) -> dict:
    """spread, deviation and shift of the whole model, and of each layer in `layers`.

    experts: E. A value is None if its denominator is 0: in an untrained mixture nothing has a
    spread. Raises UserError if the base lacks one of the tensors.
    """
    shape = alpha_shape("model", ffn)
    tensors = merged_tensors(base, ffn, shape)
    names = [name_in_base(base, tensor.name, tensor.shape) for tensor in tensors]
    sums_of: dict[FfnLayer, torch.Tensor] = {}  # of the tensors' `squares`, [3], by layer
    for tensor, name in zip(progress(tensors, desc="measure", unit="tensor"), names, strict=True):
        squares = tensor.squares(base.get(name))
        layer = tensor.layer
        sums_of[layer] = sums_of[layer] + squares if layer in sums_of else squares
    for layer, sums in sums_of.items():
        if layer.low_rank:
            sums[2] += _squares_of_biases(layer, base)
    total = [math.fsum(sums[number] for sums in sums_of.values()) for number in range(3)]
    return {
        **_values(*total),
        "experts": 1 + shape[-1],
        "layers": [{"layer": layer.index, **_values(*sums)} for layer, sums in sums_of.items()],
    }


def _squares_of_biases(layer: FfnLayer, base: TensorSource) -> torch.Tensor | float:
    """The sum of the squares of the base's biases in a layer, which no LoRA expert changes."""
    names = [layer.dense(projection, "bias") for projection in layer.form.projections]
    return sum(squared_norm(base.get(name)) for name in names if name in base)


def are_alike(mixture: TensorSource) -> bool:
    """Whether each layer has several routed experts, which are all equal: they did not learn."""
    config = mixture.config
    holds_shared = config.get("experts") == "lora" and config["shared_expert"]
    first = 1 if holds_shared else 0  # routed expert in a tensor
    for name in mixture.names:
        if ".mlp.experts." not in name:
            continue
        experts = mixture.get(name)[first:]
        if len(experts) < 2:
            return False
        differ = not all(expert.equal(experts[0]) for expert in experts[1:])
        if differ and mixture.get(name.replace("lora_A", "lora_B"))[first:].any():
            return False  # any A is the same beside a B of zeros
    return True


def _values(apart: float, moved: float, size: float) -> dict[str, float | None]:
    """spread, deviation and shift, from the sums of the tensors' `squares`."""
    return {
        "spread": _root_ratio(apart, moved),
        "deviation": _root_ratio(apart, size),
        "shift": _root_ratio(moved, size),
    }


def _root_ratio(numerator: float, denominator: float) -> float | None:
    if denominator == 0:
        return None
    return float(f"{math.sqrt(numerator / denominator):.{DIGITS}g}")
