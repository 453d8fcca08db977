"""Task arithmetic (arXiv 2212.04089): the base's weights, and a multiple of the whole change.

merge: {method: "examples/merges/task_arithmetic.py:task_arithmetic(scale=1.5)"}
"""

import torch


def task_arithmetic(tensors, coefficients, base, scale=1.0):
    """B + scale (C - B) with C = sum_i c_i W_i. More than 1 goes beyond C."""
    merged = sum(share * tensor for share, tensor in zip(coefficients, tensors, strict=True))
    return torch.lerp(base, merged, scale)


task_arithmetic.every_tensor = True  # also those that the mixture holds once
