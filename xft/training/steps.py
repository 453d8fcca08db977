"""Counts the optimiser steps of a training."""

import math

from xft.config.training import TrainingConfig


def optimizer_steps(options: TrainingConfig, rows: int, global_batch: int) -> int:
    """The optimiser steps that transformers' Trainer takes on this number of rows."""
    return options.max_steps or math.ceil(options.num_train_epochs * math.ceil(rows / global_batch))


def with_steps_times(options: TrainingConfig, factor: float, rows: int) -> TrainingConfig:
    """The options of a training with `factor` times the optimiser steps and warm-up steps.

    rows: to train on. Both products are rounded, and the training has at least one step. The result
    states its steps as `max_steps`, so `num_train_epochs` has no effect any more.
    """
    steps = optimizer_steps(options, rows, options.global_batch)
    return options.model_copy(
        update={
            "max_steps": max(round(factor * steps), 1),
            "warmup_steps": round(factor * options.warmup_steps),
        }
    )
