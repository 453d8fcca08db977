"""Hold the experts of a layer near their mean.

moe_sft: {callbacks: ["examples/callbacks/expert_decay.py:ExpertDecay(strength=1.0)"]}
"""

import torch
from transformers import TrainerCallback


class ExpertDecay(TrainerCallback):
    """W_i -= learning rate strength (W_i - mean(W)) before each optimiser step.

    Over the routed experts of a layer and the shared one, for experts with full weights.
    """

    def __init__(self, strength):
        self.strength = strength

    @torch.no_grad()
    def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
        share = optimizer.param_groups[0]["lr"] * self.strength
        for block in model.moe_blocks:
            for weights in alike(block):
                mean = torch.stack(weights).mean(0)
                for weight in weights:
                    weight.lerp_(mean, share)


def alike(block):
    """The same weight, or bias, of each expert of a layer, for each projection."""
    experts, form = block.experts, block.shape.form
    for name, parts in ((experts.up_name, form.inputs), ("down_proj", [form.output])):
        for kind, suffix in (("weight", ""), ("bias", "_bias"))[: 1 + experts.has_bias]:
            stacked = getattr(experts, name + suffix).chunk(len(parts), dim=1)
            for part, routed in zip(parts, stacked, strict=True):
                mlp = block.shared_expert
                shared = [] if mlp is None else [getattr(getattr(mlp, part), kind)]
                yield [*routed, *shared]
