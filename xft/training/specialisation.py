"""What decides how far the experts of a mixture specialise while it is tuned."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import TrainerCallback

from xft.modeling.moe import MoeBlock

LEAST_NOISE = 1e-3  # of its scale: the noise keeps a gradient, which DDP waits for


class FadingNoise(TrainerCallback):
    """Lets the routing noise fall linearly to zero over the first optimiser steps.

    blocks: of the mixture. steps: their number.
    """

    def __init__(self, blocks: list[MoeBlock], steps: int):
        self.blocks, self.steps = blocks, steps

    def on_step_begin(self, args, state, control, **kwargs):
        for block in self.blocks:
            block.router.noise_factor = max(1 - state.global_step / self.steps, LEAST_NOISE)


class TiedExperts(TrainerCallback):
    """Moves the experts of a layer towards their mean before each optimiser step.

    W_i -= learning rate strength (W_i - mean(W)), over the routed experts and the shared one.
    """

    def __init__(self, blocks: list[MoeBlock], strength: float):
        self.blocks, self.strength = blocks, strength

    @torch.no_grad()
    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        share = optimizer.param_groups[0]["lr"] * self.strength
        for weights in (weights for block in self.blocks for weights in _of_experts(block)):
            mean = torch.stack(weights).mean(0)
            for weight in weights:
                weight.lerp_(mean, share)


def _of_experts(block: MoeBlock) -> Iterator[list[Tensor]]:
    """The same weight, or bias, of each expert of a layer, for each projection."""
    experts, form = block.experts, block.shape.form
    for name, parts in ((experts.up_name, form.inputs), ("down_proj", [form.output])):
        for kind, suffix in (("weight", ""), ("bias", "_bias"))[: 1 + experts.has_bias]:
            stacked = getattr(experts, name + suffix).chunk(len(parts), dim=1)
            for part, routed in zip(parts, stacked, strict=True):
                mlp = block.shared_expert
                shared = [] if mlp is None else [getattr(getattr(mlp, part), kind)]
                yield [*routed, *shared]


def separate_routers(optimizer: Optimizer, blocks: list[MoeBlock], learning_rate: float) -> None:
    """Give the routers' weights groups of the optimiser of their own, with this learning rate."""
    routers = {weight for block in blocks for weight in block.router.parameters()}
    for group in list(optimizer.param_groups):
        chosen = [weight for weight in group["params"] if weight in routers]
        if chosen:
            group["params"] = [weight for weight in group["params"] if weight not in routers]
            optimizer.add_param_group({**group, "params": chosen, "lr": learning_rate})
