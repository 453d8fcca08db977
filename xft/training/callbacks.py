"""Callbacks of the Trainer: progress, metrics, the times of checkpoints, and an early end."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch.distributed import ReduceOp
from transformers import TrainerCallback

from xft.common.progress import labelled, progress, say
from xft.config.training import TrainingConfig
from xft.training.curve import VALIDATION_LOSS, change_at_end, still_falls
from xft.training.processes import over_processes
from xft.training.this_process import is_main_process, say_once
from xft.training.throughput import Throughput
from xft.training.validation import validations_since_best

LOSSES = "loss", VALIDATION_LOSS
METRICS_FILE = "metrics.jsonl"  # in a checkpoint
STOP_MESSAGES = {
    signal.SIGTERM: "SIGTERM: the training stops after this step",
    signal.SIGINT: "Ctrl-C: the training stops after this step. A second Ctrl-C ends it at once",
}
SAVING_SHARE = 20  # the least time between two checkpoints, as a multiple of the time to save


class ProgressCallback(TrainerCallback):
    """A progress bar over the optimiser steps, with losses and speed, and a summary at the end."""

    def __init__(self, throughput: Throughput):
        self.throughput = throughput

    def on_train_begin(self, args, state, control, **kwargs):
        initial = state.global_step
        self.bar = progress(desc="train", total=state.max_steps, unit="step", initial=initial)
        self.shown = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        new = {key: f"{logs[key]:.4f}" for key in LOSSES if key in logs}
        self.shown |= new | {"tokens": f"{self.throughput.tokens_per_second:.0f}/s"}
        self.bar.set_postfix(self.shown, refresh=False)
        self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
        losses = [f"{name} {self.shown[name]}" for name in LOSSES if name in self.shown]
        say(", ".join([f"step {state.global_step}", *losses, self.throughput.summary()]))
        if still_falls(change := change_at_end(state.log_history)):
            say(f"the loss still fell in the last quarter, by {-change:.0%}: more steps may help")


class MetricsCallback(TrainerCallback):
    """Writes a line of JSON for each step and each validation, after those of a checkpoint.

    path: of the file.
    extra: gives what else is written of a step.
    checkpoint: from which the training continues, or None.
    """

    def __init__(self, path: Path, extra: Callable[[], dict], checkpoint: Path | None):
        self.path = path
        self.extra = extra
        before = checkpoint / METRICS_FILE if checkpoint else None
        text = before.read_text(encoding="utf-8") if before and before.exists() else ""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self._write({"step": state.global_step, **logs, **self.extra()})
        elif VALIDATION_LOSS in logs:
            self._write({"step": state.global_step, VALIDATION_LOSS: logs[VALIDATION_LOSS]})

    def _write(self, line: dict) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            print(json.dumps(line), file=file)


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
        due, stop = over_processes(wishes.int(), ReduceOp.MAX).bool().tolist()
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
