"""A learning rate of the routers, with the same schedule.

moe_sft: {callbacks: ["examples/callbacks/router_rate.py:RouterRate(learning_rate=1.0e-4)"]}
"""

from transformers import TrainerCallback

from xft.training.features import Feature


class RouterRate(Feature, TrainerCallback):
    """Gives the routers' weights groups of the optimiser of their own."""

    def __init__(self, learning_rate):
        self.learning_rate = learning_rate

    def on_optimizer(self, model, optimizer):
        routers = {weight for block in model.moe_blocks for weight in block.router.parameters()}
        for group in list(optimizer.param_groups):
            chosen = [weight for weight in group["params"] if weight in routers]
            if chosen:
                group["params"] = [weight for weight in group["params"] if weight not in routers]
                own = {"params": chosen, "lr": self.learning_rate}
                optimizer.add_param_group({**group, **own})
