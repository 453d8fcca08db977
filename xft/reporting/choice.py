"""Chooses the best of several merges by their results."""

from collections.abc import Sequence
from pathlib import Path

from xft.evaluation.result import read_result
from xft.reporting.validation_losses import LOSS


def best_merge(files: Sequence[Path], by: str) -> int:
    """The number of the best result; the first one of equals.

    files: losses on held-out rows if by is validation, and the lowest is the best; results of
    evaluations if by is benchmark, and the one with the most solved problems is the best.
    """
    if by == "validation":
        values = [-LOSS.read(file)["loss"] for file in files]
    else:
        values = [read_result(file)["pass@1"]["plus"] for file in files]
    return values.index(max(values))
