"""What happens beside the training steps: progress, metrics, and when checkpoints are saved."""

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed
from transformers import TrainerCallback

from workflow_scripts.progress import progress
from workflow_scripts.training.throughput import Throughput
from workflow_scripts.training.validation import VALIDATION_LOSS

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
        print(self.throughput.summary(), file=sys.stderr)


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
    """Notes a SIGTERM, which does not end the process while this is entered.

    speaks: tells of it, for all processes of a training.
    """

    def __init__(self, speaks: bool = True):
        self.speaks = speaks
        self.came = False

    def __enter__(self) -> "StopRequest":
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, *_) -> None:
        self.came = True
        if self.speaks:
            with suppress(BrokenPipeError):
                print("SIGTERM: the training stops after this step", file=sys.stderr, flush=True)
        if stat.S_ISFIFO(os.fstat(2).st_mode):  # whoever reads it was told to end too
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.dup2(nowhere, 1)


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
