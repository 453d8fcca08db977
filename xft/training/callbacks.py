"""Callbacks of the Trainer: the weights' average, the times of checkpoints, and an early end."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from xft.common.progress import labelled
from xft.config.training import TrainingConfig
from xft.training.engines import learned_parameters
from xft.training.losses import validations_since_best
from xft.training.ranks import is_main_process, over_processes, say_once

STOP_MESSAGES = {
    signal.SIGTERM: "SIGTERM: the training stops after this step",
    signal.SIGINT: "Ctrl-C: the training stops after this step. A second Ctrl-C ends it at once",
}
SAVING_SHARE = 20  # the least time between two checkpoints, as a multiple of the time to save


class StopRequest:
    """Inside its block, SIGTERM and Ctrl-C are noted and do not end the process.

    A second Ctrl-C ends it at once; torchrun passes it on as SIGTERM. The main process prints a
    message, for all processes.

    first: the signal that came first, or None.
    """

    first: signal.Signals | None = None

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
            with suppress(BrokenPipeError):  # print could be running already
                os.write(2, f"{labelled(STOP_MESSAGES[number])}\n".encode())
        self.first = self.first or signal.Signals(number)


class SaveCallback(TrainerCallback):
    """Asks for a checkpoint at intervals, and for a last one before a requested stop.

    seconds: the interval, longer if saving would take more than a twentieth of the time. All
    processes of a training save at the same step. No checkpoint is saved after the last step.
    """

    def __init__(self, seconds: float, stop: StopRequest):
        self.seconds = seconds
        self.stop = stop
        self.stopped = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.due = time.monotonic() + self.seconds

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            return
        self.began = time.monotonic()
        wishes = torch.tensor([self.began >= self.due, bool(self.stop.first)], device=args.device)
        due, stop = over_processes(wishes.int(), "MAX").bool().tolist()
        control.should_save = due or stop
        control.should_training_stop = self.stopped = stop

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
