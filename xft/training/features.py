"""The form of what a training does besides learning, and what it checks and measures at each step.

Callbacks of the Trainer do the rest (`callbacks`, `metrics`).
"""

import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer

from xft.common.errors import UserError
from xft.common.gpus import advice_on_nan
from xft.training.saving import Checkpoints


class Feature:
    """Hooks that `trainer.ResumingTrainer` calls in each process, beside those of callbacks."""

    def on_optimizer(self, model, optimizer: Optimizer) -> None:
        """The optimiser is made. Its state, if a training continues, is not loaded yet."""

    def on_batches(self, batches: list[dict], rows: list[Tensor]) -> None:
        """An optimiser step begins, on these batches. rows: the numbers of each batch's rows."""

    def on_pass(self, model, inputs: dict) -> None:
        """The forward pass of a batch follows."""

    def on_outputs(self, outputs, tokens: Tensor) -> None:
        """The forward pass of a batch has ended. tokens: trained ones of the optimiser step."""

    def on_loss(self, logs: dict, step: int) -> None:
        """An optimiser step has ended. logs: its loss and other values, to be added to."""


class FiniteCheck(Feature):
    """Ends the training at the first loss or gradient that is not finite, and names its rows.

    mixing: None, or the `Mixing` that knows the norm of the gradient.
    """

    def __init__(self, accelerator: Accelerator, checkpoints: Checkpoints, mixing):
        self.accelerator = accelerator
        self.checkpoints = checkpoints
        self.mixing = mixing

    def on_batches(self, batches, rows):
        self.rows = rows

    def on_loss(self, logs, step):
        norm = self.mixing.gradient_norm if self.mixing else logs.get("grad_norm", 0.0)
        if math.isfinite(logs["loss"]) and math.isfinite(norm):
            return
        raise UserError(
            f"step {step}: loss {logs['loss']}, gradient norm {norm}. "
            f"Rows of the batch, counted from 1: {', '.join(map(str, self._all_rows()))}. "
            f"Last good checkpoint: {self.checkpoints.newest() or 'none yet'}. Check these rows, "
            f"or lower the learning rate{advice_on_nan()}"
        )

    def _all_rows(self) -> list[int]:
        """The numbers of the rows of all processes."""
        rows = torch.cat(self.rows).to(self.accelerator.device)
        rows = self.accelerator.pad_across_processes(rows)  # by zeros; rows count from 1
        return [number for number in self.accelerator.gather(rows).tolist() if number]


class RoutingStatistics(Feature):
    """The statistics of each layer of a mixture for the last batch of this process."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.layers: Sequence[dict[str, Tensor]] = ()

    def on_outputs(self, outputs, tokens):
        if self.accelerator.sync_gradients:
            self.layers = [routing.statistics() for routing in getattr(outputs, "routing", ())]

    def metrics(self) -> dict[str, list]:
        """The values of each layer by name, rounded to four digits after the decimal point."""
        names = self.layers[0] if self.layers else ()
        return {name: [_rounded(layer[name]) for layer in self.layers] for name in names}


def _rounded(values: Tensor) -> list | float:
    return values.double().mul(1e4).round().div(1e4).tolist()
