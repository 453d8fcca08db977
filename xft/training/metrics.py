"""The reports of a training: progress, speed, a file of metrics, and trackers.

Trackers get the metrics too, by transformers' own callbacks: TensorBoard and wandb. This module
sets the environment variables that they read: the place and the name of the run, and that a
training which continues from a checkpoint continues its run. No tracker gets the environment, the
source code or the output.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from xft.common.json_files import read_json
from xft.common.progress import progress, say
from xft.training.at_end import VALIDATION_LOSS, change_at_end, still_falls
from xft.training.ranks import over_processes

SETTINGS = Path(__file__).parent / "settings" / "trackers.json"
LOSSES = "loss", VALIDATION_LOSS
METRICS_FILE = "metrics.jsonl"  # in a checkpoint
PER_EXPERT = {"load", "importance", "shares"}  # these have too many values to draw a curve for each


class Throughput:
    """Tokens of all processes, and the time from the first batch on."""

    def __init__(self):
        self._began: float | None = None
        self._counts = torch.zeros(2, dtype=torch.long)  # real tokens, and those with padding

    def count(self, batches: list[dict]) -> None:
        """Count the tokens of the optimiser step that begins. All processes call this."""
        if self._began is None:
            self._began = time.perf_counter()
        counts = over_processes(torch.stack([_counts(batch) for batch in batches]).sum(0))
        self._counts = self._counts.to(counts.device) + counts

    @property
    def tokens(self) -> int:
        """Real tokens of all processes, without padding."""
        return int(self._counts[0])

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def padding(self) -> float:
        """The share of padding in the batches."""
        return 1 - self.tokens / int(self._counts[1])

    def summary(self) -> str:
        speed = f"{self.seconds:.0f} s, {self.tokens_per_second:.0f} a second"
        return f"{self.tokens} tokens in {speed}, {self.padding:.1%} of the batches is padding"


def _counts(batch: dict) -> torch.Tensor:
    """Real tokens and all tokens of a batch, [2], on the batch's device."""
    ids = batch["input_ids"]
    real = batch.get("attention_mask", torch.ones_like(ids)).sum()
    return torch.stack([real, torch.full_like(real, ids.numel())])


class ProgressCallback(TrainerCallback):
    """A progress bar over the optimiser steps, with losses and speed, and a summary at the end."""

    def __init__(self, throughput: Throughput):
        self.throughput = throughput

    def on_train_begin(self, args, state, control, **kwargs):
        initial = state.global_step
        self.bar = progress(desc="train", total=state.max_steps, unit="step", initial=initial)
        self.shown = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        for key in LOSSES:
            if key in logs:
                self.shown[key] = f"{logs[key]:.4f}"
        self.shown["tokens"] = f"{self.throughput.tokens_per_second:.0f}/s"
        self.bar.set_postfix(self.shown, refresh=False)
        self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
        losses = [f"{name} {self.shown[name]}" for name in LOSSES if name in self.shown]
        say(", ".join([f"step {state.global_step}", *losses, self.throughput.summary()]))
        change = change_at_end(state.log_history)
        if state.global_step >= state.max_steps and still_falls(change):
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
        text = ""
        if checkpoint is not None and (checkpoint / METRICS_FILE).exists():
            text = (checkpoint / METRICS_FILE).read_text(encoding="utf-8")
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


def tracker_callbacks(
    trackers: list[str], folder: Path, run: str, training: str, statistics: Callable[[], dict]
) -> list[TrainerCallback | type[TrainerCallback]]:
    """The callbacks of some trackers, in their order.

    folder: where they write, unless the environment names another place.
    run: its name.
    training: the identity of the training.
    statistics: gives more values to report with each loss.
    """
    folder = folder.resolve()
    settings = read_json(SETTINGS)
    places = {"TENSORBOARD_LOGGING_DIR": folder / "tensorboard" / run, "WANDB_DIR": folder}
    for name, value in (settings["defaults"] | places).items():
        os.environ.setdefault(name, str(value))
    os.environ.update(settings["always"])
    os.environ["WANDB_NAME"] = run
    os.environ["WANDB_RUN_ID"] = training
    folder.mkdir(parents=True, exist_ok=True)
    of_trackers = [INTEGRATION_TO_CALLBACK[name] for name in trackers]
    return [StatisticsCallback(statistics), *of_trackers]


class StatisticsCallback(TrainerCallback):
    """Adds the statistics of each layer to the values that the callbacks after it report."""

    def __init__(self, statistics: Callable[[], dict]):
        self.statistics = statistics

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            logs.update(curves(self.statistics()))


def curves(statistics: dict) -> dict[str, float]:
    """The numbers in nested lists, each named by its list and its index in it."""
    numbers = {}
    for name, value in statistics.items():
        if name not in PER_EXPERT:
            numbers.update(_numbers_in(name, value))
    return numbers


def _numbers_in(name: str, value: list | float) -> dict[str, float]:
    """The numbers in a list of numbers or lists, or a number itself, by name."""
    if not isinstance(value, list):
        return {name: value}
    numbers = {}
    for index, item in enumerate(value):
        numbers.update(_numbers_in(f"{name}/{index}", item))
    return numbers
