"""Experts that begin as the base's MLP with normal noise on every weight.

moe: {init: "examples/inits/noise.py:noise(share=0.02)"}
"""

import torch


def noise(weights, generator, share=0.02):
    """W + share std(W) n for each matrix W, n standard normal."""
    return {
        name: weight + share * deviation(weight) * torch.randn(weight.shape, generator=generator)
        for name, weight in weights.items()
    }


def deviation(weight):
    """By numpy, whose sums are the same on any number of threads."""
    return float(weight.double().numpy().std())
