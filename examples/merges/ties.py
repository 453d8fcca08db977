"""TIES (arXiv 2306.01708): the largest changes of each expert, those with the elected sign alone.

merge: {method: examples/merges/ties.py:ties}
"""

import torch

KEPT = 0.2  # the share of the largest changes of each expert


def ties(tensors, coefficients, base):
    """B + the mean of the kept changes that have the sign of their sum, value by value."""
    changes = torch.stack([_largest(tensor - base) for tensor in tensors])
    shares = coefficients.view(-1, *[1] * base.dim())
    sign = (shares * changes).sum(0).sign()
    agrees = (changes.sign() == sign) & (changes != 0)
    weight = (shares * agrees).sum(0)
    return base + (shares * changes * agrees).sum(0) / weight.clamp(min=1e-12)


def _largest(change):
    smallest = change.abs().flatten().kthvalue(int((1 - KEPT) * change.numel()) + 1).values
    return torch.where(change.abs() >= smallest, change, 0.0)
