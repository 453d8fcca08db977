"""Fused experts that do not begin as copies of the dense MLP.

noise: W_i = W + share std(W) n, with n standard normal.
drop: Drop-Upcycling (arXiv 2502.19261). Expert i draws a set S of at least one neuron. The
rows S of gate and up and the columns S of down come from N(mean, std^2), with the mean and the
standard deviation of the values that were there. All else is copied.

Biases are always copies. Statistics and draws are in fp32 or more, and are rounded once.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from xft.config.sections import ExpertStart
from xft.conversions.common import seeded_generator

BLOCK_ROWS = 512  # of a matrix that are in memory in float64


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


def varied(
    weight, roles: Sequence[str], place: str, experts: Iterable[int], start: ExpertStart, seed: int
) -> Iterator:
    """The matrices of each expert, made from a dense weight that holds the matrices of `roles`.

    weight: on the CPU.
    roles: "gate" and "up" [I, H], "up" without a gate, or "down" [H, I].
    place, experts, seed: decide the draws.
    """
    import torch

    matrices = dict(zip(roles, weight.chunk(len(roles)), strict=True))
    scales = {}
    if start.init == "noise":
        scales = {role: start.init_noise * mean_and_std(w)[1] for role, w in matrices.items()}
    for expert in experts:
        for role, matrix in matrices.items():
            generator = seeded_generator(seed, f"{place}.{expert}.{role}")
            if start.init == "noise":
                noise = torch.randn(matrix.shape, generator=generator).mul_(scales[role])
                yield noise.add_(matrix).to(matrix.dtype)
            else:
                axis = 1 if role == "down" else 0
                drawer = seeded_generator(seed, f"{place}.{expert}.neurons")
                neurons = torch.randperm(matrix.shape[axis], generator=drawer)
                dropped = max(int(start.init_drop * len(neurons)), 1)
                yield redrawn(matrix, neurons[:dropped], axis, generator)
