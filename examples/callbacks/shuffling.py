"""Shuffle weights over experts (WASH, arXiv 2405.17517).

moe_sft: {callbacks: ["examples/callbacks/shuffling.py:Shuffling(share=0.01)"]}
"""

import torch
from expert_decay import alike
from transformers import TrainerCallback


class Shuffling(TrainerCallback):
    """Permutes this share of the coordinates over a layer's experts after each step.

    Each coordinate has a permutation of its own, so the experts' mean stays. The optimiser's state
    is not permuted. The draws follow from seed and step: all processes have the same ones. For
    experts with full weights.
    """

    def __init__(self, share):
        self.share = share

    @torch.no_grad()
    def on_step_end(self, args, state, control, model=None, **kwargs):
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + state.global_step)
        for block in model.moe_blocks:
            for weights in alike(block):
                drawn = torch.rand(weights[0].shape, generator=generator) < self.share
                experts, size = len(weights), int(drawn.sum())
                order = torch.rand(experts, size, generator=generator).argsort(0)
                drawn = drawn.to(weights[0].device)
                values = torch.stack([weight[drawn] for weight in weights])
                values = values.gather(0, order.to(values.device))
                for weight, value in zip(weights, values, strict=True):
                    weight[drawn] = value
