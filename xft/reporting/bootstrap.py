"""Differences of two models over seeds and units (problems or rows), by a bootstrap over both."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from xft.reporting.statistics import CONFIDENCE

RESAMPLES = 19_999  # p-values from 1e-4 on, enough for Holm's correction for 500 comparisons
DIGITS = 12  # of a resampled difference, since rounding errors would hide that it is 0
MOST_NUMBERS = 4_000_000  # in memory at a time


@dataclass(frozen=True)
class Difference:
    """The second model's mean minus the first's, over seeds and units.

    problems: the number of units. low, high: the 95% interval. p_value: two-sided, for no
    difference. seeds_first, seeds_second: the numbers of seeds.
    """

    problems: int
    difference: float
    low: float
    high: float
    p_value: float
    seeds_first: int
    seeds_second: int


@dataclass(frozen=True)
class Measured:
    """The values of one model on the same units for each of its seeds, and their resampled means.

    seeds: in the order of the rows. values [seeds, units]; weights [units], with sum 1;
    means [RESAMPLES, seeds]: the weighted mean over each resample of the units.
    """

    seeds: tuple[int | None, ...]
    values: object
    weights: object
    means: object


def measure(
    seeds: Sequence[Sequence[int | None]], values: Sequence, weights=None, stream: int = 0
) -> list[Measured]:
    """A `Measured` for each model, all with the same resamples of the units.

    values: for each model [seeds, units]. weights [units]: the units' shares of a mean, such as
    tokens of rows; None: all are equal. A resample draws as many units as there are, with
    replacement. stream: sets of different units need different ones.
    """
    import numpy as np

    values = [np.asarray(one, dtype=float) for one in values]
    stacked = np.concatenate(values).T
    units = len(stacked)
    shares = np.ones(units) if weights is None else np.asarray(weights, dtype=float)
    rng = np.random.default_rng([0, stream])
    found = []
    while missing := RESAMPLES - sum(map(len, found)):
        size = min(missing, max(1, MOST_NUMBERS // units))
        drawn = rng.integers(units, size=(size, units)) + units * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units) * shares
        found.append(counts @ stacked / counts.sum(axis=1, keepdims=True))
    ends = np.cumsum([len(one) for one in values])[:-1]
    means = np.split(np.concatenate(found), ends, axis=1)
    shares = shares / shares.sum()
    return [Measured(tuple(s), v, shares, m) for s, v, m in zip(seeds, values, means, strict=True)]


def compare_over_seeds(pairs: Sequence[tuple[Measured, Measured]]) -> Difference:
    """Compare two models. pairs: their measures on each set of units.

    The two-way (pigeonhole) bootstrap of Owen, arXiv 0712.1111: it draws seeds and units
    independently, and takes the 2.5% and 97.5% quantiles of the resampled differences. Sets of
    units are strata. If both models have the same seeds, the same ones are drawn for both. The
    deviations of S seeds are scaled by sqrt(S / (S - 1)) (Rao and Wu, JASA 83 (1988) 231-241),
    since a plain bootstrap makes the variance of S values too small by (S - 1) / S.

    p: twice the share of resamples on the other side of 0, and at least 2 / 2^k if the models
    differ on k units: no test that exchanges the models on each unit gives less.
    """
    import numpy as np

    sizes = np.array([first.values.shape[1] for first, _ in pairs])
    shares = sizes / sizes.sum()
    drawn, difference, differing = np.zeros(RESAMPLES), 0.0, 0
    for share, (first, second) in zip(shares, pairs, strict=True):
        drawn += share * (_resampled(second, first.seeds, 1) - _resampled(first, first.seeds, 1))
        by_unit = second.values.mean(axis=0) - first.values.mean(axis=0)
        difference += share * float(by_unit @ first.weights)
        differing += int(np.count_nonzero(~np.isclose(by_unit, 0)))
    drawn = drawn.round(DIGITS)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    beyond = 1 + min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    first, second = pairs[0]
    return Difference(
        problems=int(sizes.sum()),
        difference=difference,
        low=float(low),
        high=float(high),
        p_value=min(1.0, max(2 * beyond / (RESAMPLES + 1), 2.0 ** (1 - differing))),
        seeds_first=len(first.seeds),
        seeds_second=len(second.seeds),
    )


def _resampled(measured: Measured, seeds: tuple, stream: int):
    """The means over resampled seeds and units [RESAMPLES]. Other seeds are drawn independently.

    seeds: those of the first model of a pair.
    """
    weights = _seed_weights(len(measured.seeds), stream + (measured.seeds != seeds))
    return (measured.means * weights).sum(axis=1)


@cache
def _seed_weights(count: int, stream: int):
    """The weights of the seeds in each resample, [RESAMPLES, count]. Each row has the sum 1."""
    import numpy as np

    if count == 1:
        return np.ones((RESAMPLES, 1))
    rng = np.random.default_rng([1, stream])
    shares = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) / count
    return 1 / count + (shares - 1 / count) * (count / (count - 1)) ** 0.5
