"""What happens beside the training steps: progress, metrics, and when checkpoints are saved."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed
from transformers import TrainerCallback

from workflow_scripts.common.progress import progress, say
from workflow_scripts.training.throughput import Throughput
from workflow_scripts.training.validation import VALIDATION_LOSS

STOP_MESSAGES = {
    signal.SIGTERM: "SIGTERM: the training stops after this step",
    signal.SIGINT: "Ctrl-C: the training stops after this step. A second Ctrl-C ends it at once",
}
SAVING_SHARE = 20  # at least so many times as long as saving took lies between two checkpoints


class ProgressCallback(TrainerCallback):
    """A progress bar over the optimiser steps, with the last losses and the speed; then a sum."""

    def __init__(self, throughput: Throughput):
        self.throughput = throughput

    def on_train_begin(self, args, state, control, **kwargs):
        initial = state.global_step
        self.bar = progress(desc="train", total=state.max_steps, unit="step", initial=initial)
        self.shown = {}

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_log(self, args, state, control, logs=None, **kwargs):
        new = {key: f"{logs[key]:.4f}" for key in ("loss", VALIDATION_LOSS) if key in logs}
        self.shown |= new | {"tokens": f"{self.throughput.tokens_per_second:.0f}/s"}
        self.bar.set_postfix(self.shown, refresh=False)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
        say(self.throughput.summary())


class MetricsCallback(TrainerCallback):
    """A line of JSON for each step and each validation, after those of before this process."""

    def __init__(self, path: Path, extra: Callable[[], dict], before: str = ""):
        self.path = path
        self.extra = extra
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(before, encoding="utf-8")

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self._write({"step": state.global_step, **logs, **self.extra()})
        elif VALIDATION_LOSS in logs:
            self._write({"step": state.global_step, VALIDATION_LOSS: logs[VALIDATION_LOSS]})

    def _write(self, line: dict) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            print(json.dumps(line), file=file)


class StopRequest:
    """Notes a SIGTERM or a Ctrl-C, which do not end the process while this is entered.

    A second Ctrl-C does, at once. speaks: tells of it, for all processes of a training.
    """

    def __init__(self, speaks: bool = True):
        self.speaks = speaks
        self.first: signal.Signals | None = None

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in STOP_MESSAGES}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def came(self) -> bool:
        return self.first is not None

    @property
    def status(self) -> int:
        """The exit status of a process that ends by request, perhaps noted by another process."""
        return 128 + (self.first or signal.SIGTERM)

    def _note(self, number: int, _) -> None:
        if self.first == number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.first is None and self.speaks:
            with suppress(BrokenPipeError):  # print could be at work, and cannot be interrupted
                os.write(2, f"{STOP_MESSAGES[number]}\n".encode())
        self.first = self.first or signal.Signals(number)


class SaveCallback(TrainerCallback):
    """Asks for a checkpoint every so many seconds, and for one last before a requested stop.

    Saving takes at most a twentieth of the time. The processes of a training agree. After the last
    step none is saved: the result follows.
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
        due, stop = _any([self.began >= self.due, self.stop.came], args.device)
        control.should_save = due or stop
        control.should_training_stop = self.stopped = stop

    def on_save(self, args, state, control, **kwargs):
        now = time.monotonic()
        self.due = now + max(self.seconds, SAVING_SHARE * (now - self.began))


def _any(flags: list[bool], device: torch.device) -> list[bool]:
    """For each flag, whether it is true in any process."""
    if not torch.distributed.is_initialized():
        return flags
    tensor = torch.tensor(flags, dtype=torch.int32, device=device)
    torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return [bool(flag) for flag in tensor.tolist()]
