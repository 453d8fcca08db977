"""The average of a training's weights: over its last points, or exponential over all steps.

torch's AveragedModel is not used. It copies the whole model at the start in the model's dtype, its
mean is a chain of rounded means, and it knows no shards.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from xft.config.training import TuningConfig
from xft.training.engines import set_weights, whole_parameters

AVERAGE_FILE = "average.safetensors"


class WeightAverage(TrainerCallback):
    """Averages the parameters that learn in fp32, and sets them to the average after the last step.

    average_last, n points (arXiv 2507.17634): mean = (W_T + W_(T-e) + ... + W_(T-(n-1)e)) / n. The
    sum is in the CPU's memory, since it rarely changes.
    ema_decay, d: average = d average + (1 - d) W after each optimiser step, from W_1 on. It is in
    the memory of `device`, since it changes in each step.

    The main process alone has `tensors`, the sum or the average by name.
    """

    def __init__(self, module: nn.Module, options: TuningConfig, device: torch.device):
        self.module = module
        self.options = options
        self.device = torch.device("cpu") if options.average == "average_last" else device
        self.tensors: dict[str, Tensor] = {}

    def on_step_end(self, args, state, control, **kwargs):
        steps = self.options.averaged_steps(state.max_steps)
        if state.global_step in steps:
            self._take(keeps=args.process_index == 0)
        if state.global_step == state.max_steps:
            self._finish(len(steps))

    @torch.no_grad()
    def _take(self, keeps: bool) -> None:
        """Add the present weights to the average. All processes call this."""
        for name, weight in whole_parameters(self.module, self.options):
            if not keeps:
                continue
            value = weight.to(self.device, torch.float32, copy=name not in self.tensors)
            if name not in self.tensors:
                self.tensors[name] = value
            elif self.options.average == "ema_decay":
                self.tensors[name].lerp_(value, 1 - self.options.ema_decay)
            else:
                self.tensors[name].add_(value)

    def _finish(self, points: int) -> None:
        if self.options.average == "average_last":
            for total in self.tensors.values():
                total.div_(points)
        set_weights(self.module, self.tensors, self.options)

    def save(self, folder: Path) -> None:
        """Write what has been averaged so far to a checkpoint."""
        if self.tensors:
            save_file(self.tensors, folder / AVERAGE_FILE)

    def load(self, folder: Path) -> None:
        """Read what a checkpoint holds. One from before the first point holds nothing."""
        file = folder / AVERAGE_FILE
        if file.exists():
            self.tensors = {name: kept.to(self.device) for name, kept in load_file(file).items()}
