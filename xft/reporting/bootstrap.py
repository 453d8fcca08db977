"""Differences of two models, by a paired bootstrap over units (problems or rows) and seeds."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, nan
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 19_999  # p-values from 1e-4 on; smaller ones by a normal distribution
DIGITS = 12  # of a difference: rounding errors would hide that it is 0, or round a text of it up
MOST_NUMBERS = 4_000_000  # in memory at a time


@dataclass(frozen=True)
class Difference:
    """The second model's mean minus the first's, over seeds and units.

    problems: the number of units. seeds_first, seeds_second: the numbers of seeds. low, high: the
    95% interval; NaN if no set has more than one unit. p_value: two-sided, for no difference.
    error: the standard error over the units, for these seeds.
    """

    problems: int
    seeds_first: int
    seeds_second: int
    difference: float
    low: float
    high: float
    p_value: float
    error: float


@dataclass(frozen=True)
class Measured:
    """The values of one model on the same units for each of its seeds, and their resampled means.

    seeds: in order. values [seeds, units]; shares [units]: the units' parts of a mean, with sum 1;
    means [RESAMPLES, seeds]: the mean over each resample of the units.
    """

    seeds: tuple[int | None, ...]
    values: np.ndarray
    shares: np.ndarray
    means: np.ndarray


def measure(
    models: Sequence[Mapping[int | None, Sequence[float]]],
    weights: Sequence[float] | None = None,
    units: Hashable = None,
) -> list[Measured]:
    """A `Measured` for each model, all with the same resamples of the units.

    models: for each model its values [units], by seed. weights [units]: of the units in a mean,
    such as the tokens of rows; None: all are equal. units: what identifies them; other units are
    drawn by other random numbers. A resample has as many units as there are, with replacement.
    """
    seeds = [sorted(values, key=lambda seed: -1 if seed is None else seed) for values in models]
    values = [
        np.array([of_one[seed] for seed in order], dtype=float)
        for of_one, order in zip(models, seeds, strict=True)
    ]
    stacked = np.concatenate(values).T
    count = len(stacked)
    weights = np.ones(count) if weights is None else np.asarray(weights, dtype=float)
    rng = np.random.default_rng([*hashlib.sha256(repr(units).encode()).digest()])
    found = []
    while missing := RESAMPLES - sum(map(len, found)):
        size = min(missing, max(1, MOST_NUMBERS // count))
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        drawn = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count) * weights
        found.append(drawn @ stacked / drawn.sum(axis=1, keepdims=True))
    ends = np.cumsum([len(one) for one in values])[:-1]
    means = np.split(np.concatenate(found), ends, axis=1)
    shares = weights / weights.sum()
    return [
        Measured(tuple(order), one, shares, resampled)
        for order, one, resampled in zip(seeds, values, means, strict=True)
    ]


def compare(pairs: Sequence[tuple[Measured, Measured]], most: float = inf) -> Difference:
    """Compare two models. pairs: their measures on each set of units. most: the largest difference.

    The two-way (pigeonhole) bootstrap of Owen, arXiv 0712.1111: it draws seeds and units
    independently, the same units for both models, and takes the 2.5% and 97.5% quantiles of the
    resampled differences. Sets of units are strata. If both models have the same seeds, the same
    ones are drawn for both. The deviations of S seeds are scaled by sqrt(S / (S - 1)) (Rao and Wu,
    JASA 83 (1988) 231-241), since a plain bootstrap makes the variance of S values too small by
    (S - 1) / S. The scaled deviations can exceed `most`: there the interval is cut off. With one
    seed, only units are drawn.

    p: 2 (1 + b) / (1 + R), where b of R resamples lie on the rarer side of 0 or at 0. If b is 0, it
    is that of a normal distribution with the resamples' deviation, if this is smaller: Holm's
    correction for hundreds of pairs needs it. It is at least 2 / 2^k if the models differ on k
    units, since no test that exchanges the models on each unit gives less.
    """
    sizes = np.array([first.values.shape[1] for first, _ in pairs])
    drawn, difference, differing, variance = np.zeros(RESAMPLES), 0.0, 0, 0.0
    for share, (first, second) in zip(sizes / sizes.sum(), pairs, strict=True):
        drawn += share * (_over_seeds(second, first.seeds) - _over_seeds(first, first.seeds))
        by_unit = second.values.mean(axis=0) - first.values.mean(axis=0)
        mean = float(by_unit @ first.shares)
        difference += share * mean
        variance += share**2 * float(first.shares**2 @ (by_unit - mean) ** 2)
        differing += int(np.count_nonzero(~np.isclose(by_unit, 0)))
    drawn = drawn.round(DIGITS)
    low, high = np.clip(quantiles(drawn), -most, most).tolist() if sizes.max() > 1 else (nan, nan)
    rarer = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    p_value = 2 * (1 + rarer) / (1 + RESAMPLES)
    if not rarer:
        deviations = abs(difference) / max(drawn.std(), 10**-DIGITS)
        p_value = min(p_value, 2 * NormalDist().cdf(-deviations))
    first, second = pairs[0]
    seeds = len(first.seeds), len(second.seeds)
    difference, p_value = round(difference, DIGITS), min(1.0, max(p_value, 2.0 ** (1 - differing)))
    return Difference(int(sizes.sum()), *seeds, difference, low, high, p_value, variance**0.5)


def quantiles(drawn: np.ndarray) -> tuple[float, float]:
    """The ends of the 95% interval of resampled values."""
    return tuple(np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist())


def _over_seeds(measured: Measured, seeds: tuple) -> np.ndarray:
    """The means over resampled seeds and units [RESAMPLES]. Other seeds are drawn independently.

    seeds: those of the first model of a pair.
    """
    weights = _seed_weights(len(measured.seeds), stream=int(measured.seeds != seeds))
    return (measured.means * weights).sum(axis=1)


@cache
def _seed_weights(count: int, stream: int) -> np.ndarray:
    """The weights of the seeds in each resample, [RESAMPLES, count]. Each row has the sum 1."""
    if count == 1:
        return np.ones((RESAMPLES, 1))
    rng = np.random.default_rng([1, stream])
    shares = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
    return 1 / count + (shares - 1 / count) * (count / (count - 1)) ** 0.5
