"""The lengths of rows in tokens, and what a training computes at a time of rows like these."""

from dataclasses import dataclass

import numpy as np

from xft.config.training import TrainingConfig

MOST_ROWS = 1_000  # of a sample
MOST_BATCHES = 1_000  # that are drawn from it


@dataclass(frozen=True)
class Batches:
    """What a training computes at a time.

    largest: tokens of the largest forward pass, with padding.
    longest: those of a row in it.
    row: the mean for a row, with padding.
    context: the mean width of the attention for a token.
    """

    largest: int
    longest: int
    row: float
    context: float


@dataclass(frozen=True)
class Lengths:
    """A sample of rows.

    tokens: of each, at most the window.
    rows: the number of those to train on; None if unknown.
    """

    tokens: np.ndarray
    rows: int | None

    def batches(self, options: TrainingConfig, count: int | None) -> Batches:
        """The batches of a training.

        count: its forward passes in one process, if it is known.
        """
        size, tokens = options.per_device_train_batch_size, np.sort(self.tokens)
        passes = slice(min(count or MOST_BATCHES, MOST_BATCHES))
        drawn = np.random.default_rng(0).choice(tokens, (MOST_BATCHES, size))
        if options.batching == "packed":
            context = (tokens**2).sum() / tokens.sum()
            largest = drawn.sum(1)[passes].max()
            return Batches(int(largest), int(drawn[passes].max()), tokens.mean(), context)
        if options.batching == "by_length":  # the first batch has the longest row
            drawn = np.sort(drawn, axis=None)[::-1].reshape(-1, size)
        widths = drawn.max(1)
        longest = int(widths[passes].max())
        return Batches(size * longest, longest, widths.mean(), (widths**2).sum() / widths.sum())


def spread(rows: int) -> np.ndarray:
    """The places of a sample, spread evenly over so many rows."""
    return np.linspace(0, rows - 1, min(rows, MOST_ROWS)).astype(int)
