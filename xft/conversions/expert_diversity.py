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
    names = [name_in_base(base, t.name, t.shape) for t in tensors]
    layers = dict.fromkeys((tensor.layer.index for tensor in tensors), 0)
    for tensor, name in zip(progress(tensors, desc="measure", unit="tensor"), names, strict=True):
        layers[tensor.layer.index] += tensor.squares(base.get(name))
    for layer in {tensor.layer for tensor in tensors if tensor.layer.low_rank}:
        names = [layer.dense(projection, "bias") for projection in layer.form.projections]
        biases = [base.get(name) for name in names if name in base]
        layers[layer.index][2] += sum(map(squared_norm, biases))
    total = map(math.fsum, zip(*layers.values(), strict=True))
    return _values(*total) | {
        "experts": 1 + shape[-1],
        "layers": [{"layer": index} | _values(*sums) for index, sums in layers.items()],
    }


def are_alike(mixture: TensorSource) -> bool:
    """Whether each layer has several routed experts, which are all equal: they did not learn."""
    config = mixture.config
    first = int(config.get("experts") == "lora" and config["shared_expert"])
    for name in mixture.names:
        if ".mlp.experts." in name:
            experts = mixture.get(name)[first:]
            if len(experts) < 2:
                return False
            differ = not all(expert.equal(experts[0]) for expert in experts[1:])
            if differ and mixture.get(name.replace("lora_A", "lora_B"))[first:].any():
                return False  # any A is the same beside a B of zeros
    return True


def _values(apart: float, moved: float, size: float) -> dict[str, float | None]:
    ratios = {"spread": (apart, moved), "deviation": (apart, size), "shift": (moved, size)}
    return {name: _root_ratio(*ratio) for name, ratio in ratios.items()}


def _root_ratio(numerator: float, denominator: float) -> float | None:
    if denominator == 0:
        return None
    return float(f"{math.sqrt(numerator / denominator):.{DIGITS}g}")
