"""Outer steps with Nesterov momentum (SNOO, arXiv 2510.15830; DiLoCo, arXiv 2311.08105).

sft: {callbacks: ["examples/callbacks/outer_steps.py:OuterSteps(every=50)"]}
"""

import torch
from expert_decay import alike
from transformers import TrainerCallback


class OuterSteps(TrainerCallback):
    """Every K steps: s = theta - now, b <- momentum b + s, theta <- theta - rate (momentum b + s).

    now: the weights, with the mean of a layer's experts in place of each. That is the merge with
    equal shares for all, the shared one too. The weights start again from theta; the optimiser
    keeps its state. For a dense model, or a mixture of experts with full weights. In fp32.
    """

    def __init__(self, every, rate=0.7, momentum=0.9):
        self.every, self.rate, self.momentum = every, rate, momentum
        self.state = {}  # theta and b of each weight

    @torch.no_grad()
    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if not self.state:
            starts = enumerate(map(mean, merged(model)))
            self.state = {str(n): torch.stack([now, 0 * now]) for n, now in starts}

    @torch.no_grad()
    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every:
            return
        for (theta, buffer), weights in zip(self.state.values(), merged(model), strict=True):
            step = theta - mean(weights)
            buffer.mul_(self.momentum).add_(step)
            theta.sub_(self.rate * (self.momentum * buffer + step))
            for weight in weights:
                weight.copy_(theta)

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = {str(n): state[str(n)] for n in range(len(state))}


def merged(model):
    """The weights that learn, in groups: the same weight of all experts, or a single one."""
    for block in getattr(model, "moe_blocks", ()):
        yield from alike(block)
    for name, weight in model.named_parameters():
        if weight.requires_grad and "expert" not in name:
            yield [weight]


def mean(weights):
    return torch.stack(weights).mean(0, dtype=torch.float32)
