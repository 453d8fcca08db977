"""Says how a training's loss changed towards its end."""

from collections.abc import Mapping, Sequence
from statistics import mean

VALIDATION_LOSS = "validation_loss"
FALLS = -0.03  # a change below which a loss still falls
FEWEST = {VALIDATION_LOSS: 4, "loss": 40}  # that show a change; losses of single batches vary more


def change_at_end(history: Sequence[Mapping]) -> float | None:
    """The mean loss of the last quarter of a training, relative to the quarter before, minus 1.

    It is that of the validation losses, or of the batches while no row came twice. None if there
    are too few losses.

    history: the lines of its metrics.
    """
    is_first_pass = all(line.get("epoch", 0) <= 1 for line in history)
    for name, fewest in FEWEST.items():
        losses = [line[name] for line in history if name in line]
        if len(losses) >= fewest and (name == VALIDATION_LOSS or is_first_pass):
            quarter = len(losses) // 4
            before = mean(losses[-2 * quarter : -quarter])
            return mean(losses[-quarter:]) / before - 1 if before else 0.0
    return None


def still_falls(change: float | None) -> bool:
    """Whether a loss fell clearly. change: from `change_at_end`."""
    return change is not None and change < FALLS
