"""Model Stock (arXiv 2403.19522): nearer to the base where the experts disagree.

merge: {method: examples/merges/model_stock.py:model_stock}
"""

import torch


def model_stock(tensors, coefficients, base):
    """B + t (C - B) with C = sum_i c_i W_i."""
    merged = sum(share * tensor for share, tensor in zip(coefficients, tensors, strict=True))
    return torch.lerp(base, merged, ratio(torch.stack(list(tensors)) - base))


def ratio(changes):
    """t = E cos / ((E - 1) cos + 1), cos the mean cosine between two of E changes, at least 0.

    An expert that equals the base has no direction and does not count. 1 if fewer than two do.
    """
    changes = changes.flatten(1).double()
    norms = torch.linalg.vector_norm(changes, dim=1)
    units = changes[norms > 0] / norms[norms > 0, None]
    count = len(units)
    if count < 2:
        return 1.0
    pairs = count * (count - 1) / 2
    cosine = min(max((units @ units.T).triu(1).sum().item() / pairs, 0.0), 1.0)
    return count * cosine / ((count - 1) * cosine + 1)
