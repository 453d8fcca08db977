"""Dropout after each MLP, the control of random routing.

sft: {callbacks: ["examples/callbacks/dropout.py:Dropout(share=0.1)"]}
"""

from functools import partial

from torch.nn.functional import dropout
from transformers import TrainerCallback


class Dropout(TrainerCallback):
    """Sets this share of the outputs of each MLP to zero in training, and scales the others."""

    def __init__(self, share):
        self.share = share

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        for name, module in model.named_modules():
            if name.endswith(".mlp"):
                module.register_forward_hook(partial(dropped, share=self.share))


def dropped(module, arguments, output, share):
    return dropout(output, share, module.training)
