"""RegMean (arXiv 2212.09849) without data: the size of an expert's change stands for its inputs.

merge: {method: examples/merges/by_column.py:by_column}
"""

import torch


def by_column(tensors, coefficients, base):
    """W_j = sum_i c_i g_ij W_ij / sum_i c_i g_ij for each input j, with g_ij = |W_ij - B_j|^2."""
    experts = torch.stack(list(tensors))
    sizes = (experts - base).square()
    if base.dim() > 1:
        sizes = sizes.sum(1, keepdim=True)  # over the outputs
    weights = coefficients.view(-1, *[1] * base.dim()) * (sizes + 1e-12)
    return (weights * experts).sum(0) / weights.sum(0)
