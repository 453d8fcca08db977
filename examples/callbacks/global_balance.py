"""The balance loss of the whole global batch, in place of each forward pass's own.

moe_sft: {callbacks: ["examples/callbacks/global_balance.py:GlobalBalance"]}
"""

import torch
from transformers import TrainerCallback

from xft.modeling.router import squared_variation
from xft.training.features import Feature
from xft.training.ranks import over_processes


class GlobalBalance(Feature, TrainerCallback):
    """Turns the importance and load of a micro-batch into the sums over the global batch.

    Only the micro-batch's own part of a sum has a gradient, so the parts of all micro-batches add
    up to the exact one. If gradients are accumulated, all batches of a step are counted before its
    first pass, with the noise of the passes that follow.
    """

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.model, self.ahead, self.total, self.share = model, None, None, 1.0
        self.accumulates = args.gradient_accumulation_steps > 1
        model.balance_loss = self.balance_loss

    def on_batches(self, batches, rows):
        self.tokens = over_processes(sum(labelled(batch) for batch in batches))
        self.uncounted = batches if self.accumulates else []

    @torch.no_grad()
    def on_pass(self, model, inputs):
        self.share = labelled(inputs) / self.tokens
        if not self.uncounted:
            return
        device = inputs["input_ids"].device
        self.ahead = []
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for batch in self.uncounted:
                others = {key: value for key, value in batch.items() if key != "labels"}
                model(**others, output_router_logits=True, logits_to_keep=1)
        self.total = over_processes(torch.stack(self.ahead).sum(0))
        self.uncounted, self.ahead = [], None

    def balance_loss(self, routings):
        """The model weighs it by the pass's share of the tokens; its gradient must be whole."""
        if not self.model.training:
            return type(self.model).balance_loss(self.model, routings)
        own = torch.stack([routing.counts.to(routings[0].logits.device) for routing in routings])
        if self.ahead is not None:
            self.ahead.append(own)
            return own.new_zeros(())
        total = over_processes(own.detach()) if self.total is None else self.total
        counts = own + (total - own.detach())
        loss = self.model.config.balance_loss_coef * squared_variation(counts).sum()
        return loss.detach() + (loss - loss.detach()) / self.share


def labelled(batch):
    """The trained tokens of a batch."""
    return (batch["labels"][..., 1:] != -100).sum()
