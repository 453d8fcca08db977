"""Resamples the units (problems or rows) that models were measured on, for intervals and tests."""

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.05  # of a test
RESAMPLES = 19_999  # p-values from 1e-4 on; smaller ones by a normal distribution
DIGITS = 12  # of a difference: rounding errors would hide that it is 0, or round a text of it up
MOST_NUMBERS = 4_000_000  # in memory at a time


@dataclass(frozen=True)
class Measured:
    """The values of a model on the same units for each of its seeds.

    seeds: in order.
    values: [seeds, units].
    names: of the units. Units with the same name are drawn together.
    shares: [units], the units' parts of a mean, with sum 1.
    means: [RESAMPLES], the mean over each resample of the units; None with several seeds.
    """

    seeds: tuple[int | None, ...]
    values: np.ndarray
    names: tuple[Hashable, ...]
    shares: np.ndarray
    means: np.ndarray | None


def measure(
    models: Sequence[Mapping[int | None, Sequence[float]]],
    weights: Sequence[float] | None = None,
    names: Sequence[Hashable] | None = None,
    drawn_from: Sequence[Hashable] | None = None,
) -> list[Measured]:
    """A `Measured` for each model. Those with one seed have the same resamples of the units.

    A resample has as many names as there are, with replacement. The random numbers depend only on
    the names.

    models: for each model its values [units], by seed.
    weights: [units], of the units in a mean, such as the tokens of rows; None: all are equal.
    names: of the units; None: their numbers.
    drawn_from: all names of units, also of sets that share some with this one; None: `names`.
    """
    orders = [sorted(values, key=lambda seed: -1 if seed is None else seed) for values in models]
    values = [
        np.array([by_seed[seed] for seed in order], dtype=float)
        for by_seed, order in zip(models, orders, strict=True)
    ]
    count = values[0].shape[1]
    weights = np.ones(count) if weights is None else np.asarray(weights, dtype=float)
    names = tuple(range(count) if names is None else names)
    single = [number for number, order in enumerate(orders) if len(order) == 1]
    means = {}
    if single:
        stacked = np.concatenate([values[number] for number in single]).T
        resampled = _resampled(stacked, weights, names, tuple(drawn_from or names))
        means = dict(zip(single, resampled.T, strict=True))
    shares = weights / weights.sum()
    return [
        Measured(tuple(order), values[number], names, shares, means.get(number))
        for number, order in enumerate(orders)
    ]


def _resampled(values: np.ndarray, weights: np.ndarray, names: tuple, drawn_from: tuple):
    """The weighted means of values [units, models] over resamples, [RESAMPLES, models]."""
    places = {name: place for place, name in enumerate(drawn_from)}
    columns, count = [places[name] for name in names], len(places)
    rng = np.random.default_rng([*hashlib.sha256(repr(drawn_from).encode()).digest()])
    blocks = []
    while missing := RESAMPLES - sum(map(len, blocks)):
        size = min(missing, max(1, MOST_NUMBERS // count))
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        counts = counts[:, columns] * weights
        counts[counts.sum(axis=1) == 0] = weights  # no unit of a small set was drawn
        blocks.append(counts @ values / counts.sum(axis=1, keepdims=True))
    return np.concatenate(blocks)


def quantiles(drawn: np.ndarray) -> tuple[float, float]:
    """The ends of the 95% interval of resampled values."""
    return tuple(np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2]).tolist())


def tail(drawn: np.ndarray, difference: float) -> float:
    """The two-sided p-value of a difference, from its resampled values [RESAMPLES].

    2 (1 + b) / (1 + R), where b of R resamples lie on the rarer side of 0 or at 0. If b is 0, it is
    that of a normal distribution with the resamples' deviation, if this is smaller: Holm's
    correction for hundreds of pairs needs it.
    """
    drawn = drawn.round(DIGITS)
    rarer = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    p_value = 2 * (1 + rarer) / (1 + RESAMPLES)
    if rarer:
        return min(1.0, p_value)
    deviations = abs(difference) / max(drawn.std(), 10**-DIGITS)
    return min(p_value, 2 * NormalDist().cdf(-deviations))


def interval(shares: Sequence[float]) -> tuple[float, float]:
    """A 95% interval for the mean over the problems of the share of samples that pass.

    Wilson's if each share is 0 or 1, or if all are equal; otherwise a bootstrap over the problems.
    """
    # Where all shares are equal, all resamples are too: their interval would have no width.
    if set(shares) <= {0.0, 1.0} or len(set(shares)) == 1:
        return wilson(sum(shares), len(shares))
    (measured,) = measure([{None: shares}])
    return quantiles(measured.means)


def wilson(passed: float, count: int) -> tuple[float, float]:
    """The Wilson 95% interval of a share."""
    share, z2 = passed / count, NormalDist().inv_cdf(1 - LEVEL / 2) ** 2
    middle = share + z2 / (2 * count)
    half = math.sqrt(z2 / count * (share * (1 - share) + z2 / (4 * count)))
    low, high = ((middle + side) / (1 + z2 / count) for side in (-half, half))
    return max(low, 0.0), min(high, 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values after Holm's correction: the chance of any false finding is at most 5%."""
    import pandas as pd

    ordered = pd.Series([*p_values], dtype=float).sort_values()
    factors = pd.Series(range(len(ordered), 0, -1), ordered.index)
    return (factors * ordered).clip(upper=1).cummax().sort_index().tolist()


def significant(p_values: Sequence[float]) -> list[bool]:
    """Which differences are significant: those below 5% after Holm's correction for all of them."""
    return [p_value < LEVEL for p_value in holm(p_values)]
