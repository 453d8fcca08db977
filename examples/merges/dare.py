"""DARE (arXiv 2311.03099): drop changes at random, and rescale the others.

merge: {method: examples/merges/dare.py:dare}
"""

import torch

DROPPED, SEED = 0.5, 0


def dare(tensors, coefficients, base):
    """B + sum_i c_i d_i (W_i - B) / (1 - p), with d_i 0 by the probability p, else 1."""
    draws, merged = torch.Generator().manual_seed(SEED), base.clone()
    for tensor, share in zip(tensors, coefficients, strict=True):
        kept = torch.rand(base.shape, generator=draws) >= DROPPED
        merged += share * kept.to(base.device) * (tensor - base) / (1 - DROPPED)
    return merged
