"""Drop-Upcycling (arXiv 2502.19261): experts with a part of their neurons drawn again.

moe: {init: "examples/inits/drop.py:drop(share=0.5)"}
"""

import torch


def drop(weights, generator, share=0.5):
    """A share of the rows of gate and up, and of the columns of down, from N(mean, std^2) of them.

    numpy's sums are the same on any number of threads.
    """
    neurons = torch.randperm(len(weights["up"]), generator=generator)
    neurons = neurons[: max(int(share * len(neurons)), 1)]
    for name, weight in weights.items():
        axis = 1 if name == "down" else 0
        old = weight.index_select(axis, neurons).double().numpy()
        new = torch.randn(old.shape, generator=generator) * float(old.std()) + float(old.mean())
        weight.index_copy_(axis, neurons, new)
    return weights
