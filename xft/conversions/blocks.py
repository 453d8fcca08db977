"""Reads tensors of the same shape together, a block of their values at a time."""

from collections.abc import Iterable, Iterator

import torch

BLOCK = 2**16  # values of each tensor; a block of nine tensors takes 5 MB


def stacked_blocks(tensors: Iterable) -> Iterator:
    """Yield the values of n tensors in fp64, [n, block], in row-major order.

    tensors: of the same shape, of any floating-point dtype.
    """
    parts = [tensor.reshape(-1).split(BLOCK) for tensor in tensors]
    for block in zip(*parts, strict=True):
        yield torch.stack([part.double() for part in block])
