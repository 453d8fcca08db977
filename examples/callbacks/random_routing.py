"""Experts at random, and averaged (AdaMix, arXiv 2205.12410; EWA, arXiv 2308.06093).

moe_sft: {callbacks: ["examples/callbacks/random_routing.py:RandomRouting(averaging=0.1)"]}
"""

from dataclasses import replace

import torch
from expert_decay import alike
from transformers import TrainerCallback


class RandomRouting(TrainerCallback):
    """In training one expert computes a token, with weight 1: any of a layer, with equal chances.

    W_i <- (1 - averaging) W_i + averaging mean(W) after each step. The router does not learn.
    For experts with full weights.
    """

    def __init__(self, averaging):
        self.averaging = averaging

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        for block in model.moe_blocks:
            block.router.register_forward_hook(at_random)

    @torch.no_grad()
    def on_step_end(self, args, state, control, model=None, **kwargs):
        for block in model.moe_blocks:
            for weights in alike(block):
                mean = torch.stack(weights).mean(0)
                for weight in weights:
                    weight.lerp_(mean, self.averaging)


def at_random(router, arguments, routing):
    """A routing to one expert; a token of the shared one has a routed one of weight 0 beside it."""
    if not router.training:
        return routing
    tokens, routed = routing.logits.shape
    device = routing.logits.device
    indices = torch.randint(routed, (tokens, 1), device=device)
    weights = torch.ones(tokens, 1, device=device)
    shared_weight = None
    if router.has_shared_expert:
        weights = (torch.rand(tokens, 1, device=device) * (routed + 1) >= 1).float()
        shared_weight = 1 - weights[:, 0]
    counts = torch.zeros_like(routing.logits).scatter(1, indices, weights).sum(0)
    counts = counts + 0 * routing.importance  # a gradient, which DDP waits for
    chosen = {"indices": indices, "weights": weights, "shared_weight": shared_weight}
    return replace(routing, **chosen, importance=counts, load=counts)
