"""Let the routing noise fall linearly to zero over the first optimiser steps.

moe_sft: {callbacks: ["examples/callbacks/fading_noise.py:FadingNoise(steps=1000)"]}
"""

from transformers import TrainerCallback

LEAST = 1e-3  # of the noise's scale: it keeps a gradient, which DDP waits for


class FadingNoise(TrainerCallback):
    """The scale of the noise times 1 - step / steps. For mixtures with router_noise."""

    def __init__(self, steps):
        self.steps = steps

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        for block in model.moe_blocks:
            block.router.noise_factor = max(1 - state.global_step / self.steps, LEAST)
