"""Routed experts that do not begin as copies of the dense MLP.

noise: W_i = W + share std(W) n, with n standard normal.
drop: Drop-Upcycling (arXiv 2502.19261). Expert i draws a set S of the intermediate neurons. The
rows S of gate and up and the columns S of down come from N(mean, std^2), with the mean and the
standard deviation of the values that were there. All else is copied.

Biases are always copies. Statistics and draws are in fp32 or more, and are rounded once.
"""

import math
from collections.abc import Iterable, Iterator
from functools import partial

from xft.checkpoints.layout import FfnLayer
from xft.checkpoints.reader import Checkpoint
from xft.checkpoints.writer import TensorPlan
from xft.common.errors import UserError
from xft.config.sections import MoeConfig
from xft.conversions.common import seeded_generator

BLOCK_ROWS = 512  # of a matrix that are in memory in float64


def check_drop(base: Checkpoint, layers: list[FfnLayer], share: float) -> None:
    """Raise UserError if a share of a layer's intermediate neurons is less than one neuron."""
    for layer in layers:
        size = base.shape(layer.dense(layer.form.output))[1]
        if int(share * size) < 1:
            raise UserError(
                f"init_drop = {share:g}: it is less than one of the {size} intermediate neurons of "
                f"layer {layer.index}. Raise it, or choose another init"
            )


def varied_plans(
    base: Checkpoint, layer: FfnLayer, moe: MoeConfig, seed: int
) -> Iterable[TensorPlan]:
    """Plan the fused weights of a layer's routed experts, for init noise and drop.

    An expert's draws depend on the seed, the layer, the expert and the projection, and on nothing
    else.
    """
    first, output = (layer.dense(name) for name in (layer.form.inputs[0], layer.form.output))
    hidden, size = base.shape(output)
    routed = moe.num_experts - moe.shared_expert
    width = 2 * size if layer.form.gated else size
    for name, source, shape in (
        (layer.experts_in(), first, (routed, width, hidden)),
        (layer.experts_out(), output, (routed, hidden, size)),
    ):
        chunks = partial(_weights, base, layer, source == output, moe, seed)
        yield TensorPlan(name, base.dtype(source), shape, chunks)


def noised(weight, scale: float, generator):
    """weight + scale n, with n standard normal, in the dtype of `weight`."""
    import torch

    noise = torch.randn(weight.shape, generator=generator).mul_(scale)
    return noise.add_(weight).to(weight.dtype)


def redrawn(weight, neurons, axis: int, generator):
    """`weight` with new values at the indices `neurons` of an axis, as Drop-Upcycling draws them.

    The values are normal with the mean and the standard deviation of those that they replace.
    """
    import torch

    old = weight.index_select(axis, neurons)
    mean, std = mean_and_std(old)
    new = torch.randn(old.shape, generator=generator).mul_(std).add_(mean)
    return weight.index_copy(axis, neurons, new.to(weight.dtype))


def mean_and_std(matrix) -> tuple[float, float]:
    """The mean and the standard deviation of a matrix's values, in float64.

    Threads change no bit: each row is one sum, and the sums of the rows are added exactly.
    """
    count = matrix.numel()

    def total(function) -> float:
        blocks = (function(block.double()) for block in matrix.split(BLOCK_ROWS))
        return math.fsum(value for block in blocks for value in block.sum(1).tolist())

    mean = total(lambda block: block) / count
    return mean, math.sqrt(total(lambda block: (block - mean).square_()) / count)


def _weights(
    base: Checkpoint, layer: FfnLayer, is_output: bool, moe: MoeConfig, seed: int
) -> Iterator:
    """The output projection of each routed expert, or its input projections."""
    matrices = _output(base, layer) if is_output else _inputs(base, layer)
    scales = {}
    if moe.init == "noise":
        scales = {role: moe.init_noise * mean_and_std(w)[1] for role, w in matrices.items()}
    for expert in range(int(moe.shared_expert), moe.num_experts):
        name = f"{layer.prefix}.expert.{expert}"
        for role, weight in matrices.items():
            generator = seeded_generator(seed, f"{name}.{role}")
            if moe.init == "noise":
                yield noised(weight, scales[role], generator)
            else:
                axis = 1 if is_output else 0
                neurons = _drawn_neurons(weight.shape[axis], moe.init_drop, seed, name)
                yield redrawn(weight, neurons, axis, generator)


def _drawn_neurons(size: int, share: float, seed: int, name: str):
    """The neurons that an expert draws again, the same for its projections."""
    import torch

    order = torch.randperm(size, generator=seeded_generator(seed, f"{name}.neurons"))
    return order[: int(share * size)]


def _inputs(base: Checkpoint, layer: FfnLayer) -> dict:
    """The gate, if there is one, and the up projection [I, H]; a fused projection is split."""
    form = layer.form
    roles = ("gate", "up") if form.gated else ("up",)
    pieces = len(roles) // len(form.inputs)
    held = [base.get_finite(layer.dense(name)) for name in form.inputs]
    weights = [half for weight in held for half in weight.chunk(pieces)]
    return dict(zip(roles, weights, strict=True))


def _output(base: Checkpoint, layer: FfnLayer) -> dict:
    return {"down": base.get_finite(layer.dense(layer.form.output))}
