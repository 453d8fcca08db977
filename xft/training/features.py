"""The parts of a training besides learning: its checks and measurements at each step.

`Feature` has the hooks that transformers lacks. Callbacks of the Trainer do the rest: the weights'
average, the times of checkpoints, an early end (`metrics` has those that report).
"""

import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback

from xft.common.errors import UserError
from xft.common.gpus import advice_on_nan
from xft.common.progress import labelled
from xft.config.training import TrainingConfig
from xft.training.engines import learned_parameters
from xft.training.losses import validations_since_best
from xft.training.ranks import is_main_process, over_processes, say_once
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


class Diverged(UserError):
    """A loss or a gradient is not finite."""


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
        norm = logs.get("grad_norm", 0.0) if self.mixing is None else self.mixing.gradient_norm
        if math.isfinite(logs["loss"]) and math.isfinite(norm):
            return
        rows = ", ".join(str(number) for number in self._all_rows())
        raise Diverged(
            f"step {step}: loss {logs['loss']}, gradient norm {norm}. "
            f"Rows of the batch, counted from 1: {rows}. "
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
        if not self.layers:
            return {}
        return {name: [_rounded(layer[name]) for layer in self.layers] for name in self.layers[0]}


def _rounded(values: Tensor) -> list | float:
    return values.double().mul(1e4).round().div(1e4).tolist()


STOP_MESSAGES = {
    signal.SIGTERM: "SIGTERM: the training stops after this step",
    signal.SIGINT: "Ctrl-C: the training stops after this step. A second Ctrl-C ends it at once",
}
# After the last step, no checkpoint is written, and what was learned is only in memory.
DONE_MESSAGES = {
    signal.SIGTERM: "SIGTERM: all steps are done, and the result is being stored",
    signal.SIGINT: "Ctrl-C: all steps are done, and the result is being stored. A second Ctrl-C "
    "ends the training at once, and loses what it learned since its last checkpoint",
}
SAVING_SHARE = 20  # the least time between two checkpoints, as a multiple of the time to save


class StopRequest:
    """Inside its block, SIGTERM and Ctrl-C are noted and do not end the process.

    A second Ctrl-C ends it at once; torchrun passes it on as SIGTERM. The main process prints a
    message, for all processes.

    first: the signal that came first, or None.
    is_done: whether the last step is done. A signal then changes nothing.
    """

    first: signal.Signals | None = None
    is_done = False

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in STOP_MESSAGES}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def status(self) -> int:
        """The exit status after a requested stop. Another process may have received the signal."""
        return 128 + (self.first or signal.SIGTERM)

    def _note(self, number: int, _) -> None:
        if self.first == signal.SIGINT:
            raise KeyboardInterrupt
        if self.first is None and is_main_process():
            messages = DONE_MESSAGES if self.is_done else STOP_MESSAGES
            with suppress(BrokenPipeError):  # print could be running already
                os.write(2, f"{labelled(messages[number])}\n".encode())
        self.first = self.first or signal.Signals(number)


class SaveCallback(TrainerCallback):
    """Asks for a checkpoint at intervals, and for a last one before a requested stop.

    seconds: the interval, longer if saving would take more than a twentieth of the time. All
    processes of a training save at the same step. None is saved after the last step: the
    artifact takes less of the disk, and mostly less time.
    """

    def __init__(self, seconds: float, stop: StopRequest):
        self.seconds = seconds
        self.stop = stop
        self.stopped = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.due = time.monotonic() + self.seconds

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            self.stop.is_done = True
            return
        self.began = time.monotonic()
        wishes = torch.tensor([self.began >= self.due, bool(self.stop.first)], device=args.device)
        due, stop = over_processes(wishes.int(), "MAX").bool().tolist()
        control.should_save = due or stop
        control.should_training_stop = stop
        self.stopped = stop

    def on_save(self, args, state, control, **kwargs):
        now = time.monotonic()
        self.due = now + max(self.seconds, SAVING_SHARE * (now - self.began))


class ValidationCallback(TrainerCallback):
    """Keeps the weights with the lowest validation loss, and ends a training early, as configured.

    keep_as_best: saves the present weights.
    stopped_early: whether the training has ended early.
    """

    def __init__(self, options: TrainingConfig, keep_as_best: Callable[[], None]):
        self.options = options
        self.keep_as_best = keep_as_best
        self.stopped_early = False

    def on_evaluate(self, args, state, control, **kwargs):
        since_best = validations_since_best(state.log_history)
        if self.options.keep == "best" and since_best == 0:
            self.keep_as_best()
        self.stopped_early = since_best == self.options.early_stopping_patience
        if self.stopped_early:
            control.should_training_stop = True
            control.should_save = False  # the result follows
            say_once(
                f"step {state.global_step}: {since_best} validation losses in a row are not lower "
                "than the lowest before. The training ends"
            )


class WeightAverage(TrainerCallback):
    """Averages the parameters that learn in fp32, and sets them to the average after the last step.

    average = decay average + (1 - decay) W after each optimiser step, from W_1 on. Every process
    has the whole weights, and the same average. torch's AveragedModel is not used: it copies the
    whole model at the start, in the model's dtype.

    tensors: the average by name.
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
