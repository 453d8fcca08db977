"""Trackers that get metrics too, by transformers' own callbacks: TensorBoard and wandb.

This module sets the environment variables that they read: the place and the name of the run, and
that a training which continues from a checkpoint continues its run. No tracker gets the
environment, the source code or the output.
"""

import os
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

PER_EXPERT = {"load", "importance", "shares"}  # these have too many values to draw a curve for each


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
    defaults = {
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard" / run),
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": "xft",
        "WANDB_DIR": str(folder),
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    os.environ |= {
        "WANDB_NAME": run,
        "WANDB_RUN_ID": training,
        "WANDB_RESUME": "allow",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_X_DISABLE_META": "true",
        "WANDB_X_DISABLE_STATS": "true",
    }
    folder.mkdir(parents=True, exist_ok=True)
    return [StatisticsCallback(statistics), *(INTEGRATION_TO_CALLBACK[name] for name in trackers)]


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
    waiting = [(name, value) for name, value in statistics.items() if name not in PER_EXPERT]
    for name, value in waiting:
        if isinstance(value, list):
            waiting += [(f"{name}/{index}", item) for index, item in enumerate(value)]
        else:
            numbers[name] = value
    return numbers
