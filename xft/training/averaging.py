"""The exponential moving average of a training's weights.

torch's AveragedModel is not used. It copies the whole model at the start, in the model's dtype.
"""

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from xft.training.engines import learned_parameters


class WeightAverage(TrainerCallback):
    """Averages the parameters that learn in fp32, and sets them to the average after the last step.

    average = decay average + (1 - decay) W after each optimiser step, from W_1 on. Every process
    has the whole weights, and the same average. tensors: the average by name.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.module = module
        self.decay = decay
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        for name, weight in learned_parameters(self.module):
            if name in self.tensors:
                self.tensors[name].lerp_(weight.float(), 1 - self.decay)
            else:
                self.tensors[name] = weight.to(torch.float32, copy=True)
            if state.global_step == state.max_steps:
                weight.copy_(self.tensors[name])

    def state_dict(self) -> dict[str, Tensor]:
        return self.tensors

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.tensors = state
