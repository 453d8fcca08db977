"""Intervals of scores, and the difference of two models that were measured on the same units.

Units are problems or validation rows. With one seed they are resampled; with several, seeds and
units are random effects.
"""

import hashlib
import math
from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from math import inf, nan
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.05  # of a test
POWER = 0.8  # the share of the cases in which a test is to find a true difference
DRAWS = 2_000  # of a test's own errors
RESAMPLES = 19_999  # p-values from 1e-4 on; smaller ones by a normal distribution
DIGITS = 12  # of a difference: rounding errors would hide that it is 0, or round a text of it up
MOST_NUMBERS = 4_000_000  # in memory at a time
MOST_SEEDS = 100  # that are proposed
KEPT_DRAWS = 4  # sets of problems whose resamples are kept
KEPT_UNITS = 16  # groups of sets of units whose `Units` are kept


@dataclass(frozen=True, eq=False)  # equal to itself alone, so that it is a key of caches
class UnitSet:
    """The units that models were measured on.

    names: of the units. Units with the same name are drawn together.
    shares: [units], the units' parts of a mean, with sum 1.
    """

    names: tuple[Hashable, ...]
    shares: np.ndarray


@dataclass(frozen=True)
class Measured:
    """The values of a model on the same units for each of its seeds.

    seeds: in order.
    values: [seeds, units].
    units: what they were measured on.
    means: [RESAMPLES], the mean over each resample of the units; None with several seeds.
    """

    seeds: tuple[int | None, ...]
    values: np.ndarray
    units: UnitSet
    means: np.ndarray | None

    @cached_property
    def by_unit(self) -> np.ndarray:
        """The mean over the seeds, [units]."""
        return self.values.mean(axis=0)


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
        drawn_from = tuple(drawn_from or names)
        resampled = _resampled(stacked, weights, names, drawn_from, _draw(drawn_from))
        means = dict(zip(single, resampled.T, strict=True))
    units = UnitSet(names, weights / weights.sum())
    return [
        Measured(tuple(order), values[number], units, means.get(number))
        for number, order in enumerate(orders)
    ]


def _resampled(
    values: np.ndarray,
    weights: np.ndarray,
    names: tuple,
    drawn_from: tuple,
    draws: Iterable[np.ndarray],
) -> np.ndarray:
    """The weighted means of values [units, models] over resamples, [RESAMPLES, models].

    draws: see `_draw`.
    """
    places = {name: place for place, name in enumerate(drawn_from)}
    columns = [places[name] for name in names]
    blocks = []
    for drawn in draws:
        counts = drawn[:, columns] * weights
        counts[counts.sum(axis=1) == 0] = weights  # no unit of a small set was drawn
        blocks.append(counts @ values / counts.sum(axis=1, keepdims=True))
    return np.concatenate(blocks)


def _draw(names: tuple) -> Iterator[np.ndarray]:
    """How often each resample has each name, [resamples, names], in blocks of `MOST_NUMBERS`."""
    count = len(set(names))
    rng = np.random.default_rng([*hashlib.sha256(repr(names).encode()).digest()])
    missing = RESAMPLES
    while missing:
        size = min(missing, max(1, MOST_NUMBERS // count))
        missing -= size
        drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        yield counts.astype(np.min_scalar_type(count))  # to take less memory


@lru_cache(KEPT_DRAWS)
def _kept_draws(names: tuple) -> tuple[np.ndarray, ...]:
    """The blocks of `_draw`, for all models and sets of tests of a set of problems."""
    return tuple(_draw(names))


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


def interval(shares: Sequence[float], names: Sequence[Hashable]) -> tuple[float, float]:
    """A 95% interval for the mean over the problems of the share of samples that pass.

    Wilson's if each share is 0 or 1, or if all are equal; otherwise a bootstrap over the problems.

    names: of the problems. Those with the same name are one.
    """
    units = dict.fromkeys(names)
    # Where all shares are equal, all resamples are too: their interval would have no width.
    is_single = len(units) == len(shares)
    if (is_single and set(shares) <= {0.0, 1.0}) or len(set(shares)) == 1:
        return wilson(sum(shares) * len(units) / len(shares), len(units))
    return _bootstrap_interval(tuple(shares), tuple(names))


@cache
def _bootstrap_interval(shares: tuple[float, ...], names: tuple) -> tuple[float, float]:
    """See `interval`. Several tables and charts show the same one."""
    units = tuple(dict.fromkeys(names))
    values = np.array([shares], dtype=float).T
    weights = np.ones(len(shares))
    return quantiles(_resampled(values, weights, names, units, _kept_draws(units)))


def mean_interval(values: Sequence[float], weights: Sequence[float]) -> dict[str, float]:
    """The weighted mean m of losses x with weights w, and its 95% interval, low to high.

    Half of it is 1.96 standard errors of a ratio estimate: sqrt(sum w^2 (x - m)^2) / sum w.
    """
    loss = np.average(values, weights=weights)
    errors = np.multiply(weights, np.subtract(values, loss))
    half = 1.96 * np.linalg.norm(errors) / np.sum(weights)
    return {"value": float(loss), "low": float(loss - half), "high": float(loss + half)}


def wilson(passed: float, count: int) -> tuple[float, float]:
    """The Wilson 95% interval of a share."""
    share = passed / count
    z2 = NormalDist().inv_cdf(1 - LEVEL / 2) ** 2
    middle = share + z2 / (2 * count)
    half = math.sqrt(z2 / count * (share * (1 - share) + z2 / (4 * count)))
    low, high = ((middle + side) / (1 + z2 / count) for side in (-half, half))
    return max(low, 0.0), min(high, 1.0)


@dataclass(frozen=True)
class Difference:
    """The second model's mean minus the first's, over seeds and units.

    problems: the number of units.
    seeds_first, seeds_second: the numbers of seeds.
    low, high: the 95% interval; NaN if all units have the same difference, or if there is one.
    p_value: two-sided, for no difference.
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


class Units:
    """The units of several sets. Units with the same name are one draw.

    sets: a set counts by its number of units.
    weights: for each set [units], of the units in the mean over all sets.
    """

    def __init__(self, sets: Sequence[UnitSet]):
        sizes = np.array([len(of_set.names) for of_set in sets])
        places: dict = {}
        self.places = [
            np.array([places.setdefault(name, len(places)) for name in of_set.names])
            for of_set in sets
        ]
        self.names = len(places)
        self.weights = [
            size / sizes.sum() * of_set.shares for size, of_set in zip(sizes, sets, strict=True)
        ]
        draws = np.array([len(set(of_set.names)) for of_set in sets])
        self.scales = np.sqrt(draws / np.maximum(draws - 1, 1))
        self.freedom = min((draws - 1).sum(), self.names - 1)

    def mean(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The mean over all units, [seeds].

        values: for each set [seeds, units].
        """
        pairs = zip(values, self.weights, strict=True)
        return sum(of_set @ weights for of_set, weights in pairs)

    def differing(self, values: Sequence[np.ndarray]) -> int:
        """On how many names a value is not 0.

        values: for each set [units].
        """
        pairs = zip(self.places, values, strict=True)
        return len({place for places, of in pairs for place in places[~np.isclose(of, 0)]})

    def variance(self, values: Sequence[np.ndarray]) -> float:
        """The sum over seeds of the variance of the mean over units, as a ratio estimate.

        The deviations of units with the same name are added before they are squared.

        values: for each set [seeds, units].
        """
        sums = np.zeros((self.names, len(values[0])))
        for place, weights, scale, of_set in zip(
            self.places, self.weights, self.scales, values, strict=True
        ):
            means = of_set @ weights / weights.sum()
            np.add.at(sums, place, (scale * weights * (of_set - means[:, None])).T)
        return float((sums**2).sum())


@dataclass(frozen=True)
class Variances:
    """The parts of the variance of a difference.

    units: of the mean over the units, for these seeds.
    freedom: its degrees of freedom.
    seeds, residuals: [sources], of the means of the seeds, and the part of it that units cause. A
        source is the paired difference, or each model alone if their seeds differ. A model with
        one seed is left out.
    counts: [sources], the numbers of seeds.
    """

    units: float
    freedom: int
    seeds: np.ndarray
    residuals: np.ndarray
    counts: np.ndarray


def find_variances(pairs: Sequence[tuple[Measured, Measured]]) -> Variances:
    """The mean squares of units, seeds and the residual, as parts of the variance of the mean.

    pairs: see `compare`.
    """
    units = _units(pairs)
    of_units = units.variance([values[None] for values in _by_unit(pairs)])
    if pairs[0][0].seeds == pairs[0][1].seeds:
        sources = [[second.values - first.values for first, second in pairs]]
    else:
        sources = [[first.values for first, _ in pairs], [second.values for _, second in pairs]]
    seeds: list[float] = []
    residuals: list[float] = []
    counts: list[float] = []
    for source in sources:
        count = len(source[0])
        if count == 1:
            continue
        rest = [values - values.mean(axis=0) for values in source]
        seeds.append(float(units.mean(source).var(ddof=1)) / count)
        residuals.append(units.variance(rest) / (count * (count - 1)))
        counts.append(float(count))
    freedom = max(int(units.freedom), 1)
    return Variances(of_units, freedom, np.array(seeds), np.array(residuals), np.array(counts))


def _units(pairs: Sequence[tuple[Measured, Measured]]) -> Units:
    return _units_of(tuple(measured.units for measured, _ in pairs))


@lru_cache(KEPT_UNITS)
def _units_of(sets: tuple[UnitSet, ...]) -> Units:
    """The units of several sets, for all pairs of models that were measured on them."""
    return Units(sets)


def _by_unit(pairs: Sequence[tuple[Measured, Measured]]) -> list[np.ndarray]:
    """The difference on each unit, a mean over the seeds: [units] for each set."""
    return [second.by_unit - first.by_unit for first, second in pairs]


def compare(
    pairs: Sequence[tuple[Measured, Measured]],
    most: float = inf,
    variances: Variances | None = None,
) -> Difference:
    """Compare two models.

    With one seed of each model: a paired bootstrap over the units, with sets of units as strata.
    With several: random effects of units and seeds, and Student's t. If both models have the same
    seeds, these are paired too.

    p is at least 2 / 2^k if the models differ on k units, since no test that exchanges the models
    on each unit gives less.

    pairs: their measures on each set of units, with the same seeds.
    most: the largest difference.
    variances: of these pairs, if they are known.
    """
    first, second = pairs[0]
    units = _units(pairs)
    by_unit = _by_unit(pairs)
    difference = round(float(units.mean(by_unit)), DIGITS)
    variances = variances or find_variances(pairs)
    if first.means is not None and second.means is not None:
        drawn = sum(
            weights.sum() * (b.means - a.means)
            for weights, (a, b) in zip(units.weights, pairs, strict=True)
        )
        p_value = tail(drawn, difference)
        ends = quantiles(drawn)
    else:
        p_value, ends = _by_random_effects(variances, difference)
    low, high = np.clip(np.round(ends, DIGITS), -most, most).tolist()
    if low == high or not units.freedom:
        low = high = nan
    p_value = min(1.0, max(p_value, 2.0 ** (1 - units.differing(by_unit))))
    return Difference(
        problems=sum(len(of_set) for of_set in by_unit),
        seeds_first=len(first.seeds),
        seeds_second=len(second.seeds),
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        error=variances.units**0.5,
    )


def _by_random_effects(
    variances: Variances, difference: float
) -> tuple[float, tuple[float, float]]:
    """The p-value, and the ends of the 95% interval, by Student's t."""
    from scipy.special import stdtr, stdtrit

    error, freedom = (float(value) for value in _error_and_freedom(variances))
    if not error:
        return float(not difference), (difference, difference)
    half = error * stdtrit(freedom, 1 - LEVEL / 2)
    p_value = 2 * stdtr(freedom, -abs(difference) / error)
    return float(p_value), (difference - half, difference + half)


def _error_and_freedom(variances: Variances) -> tuple[np.ndarray, np.ndarray]:
    """The standard error over units and seeds, and its degrees of freedom.

    Searle, Casella, McCulloch, Variance Components (1992), section 4.3: with the mean squares MS of
    P units, S seeds and the residual, the variance of a mean is (MS_units + MS_seeds - MS_residual)
    / (S P), with negative components 0. The degrees of freedom are Satterthwaite's (Biometrics
    Bulletin 2 (1946) 110-114): V^2 / sum(V_i^2 / f_i) for mean squares V_i with f_i. A mean square
    of seeds that is smaller than the residual's counts in them too. This holds the tests near their
    level (`benchmarks.statistics`): left out, 3 seeds that shift a score by 3 points make 2% of the
    p-values smaller than 0.001.

    variances: may hold arrays of `units`, and of `seeds` and `residuals` [..., sources].
    """
    units, seeds, residuals = variances.units, variances.seeds, variances.residuals
    of_seeds = variances.counts - 1
    variance = np.maximum(units, residuals.sum(axis=-1)) + _between(variances).sum(axis=-1)
    squares = seeds**2 / of_seeds + residuals**2 / (variances.freedom * of_seeds)
    squares = units**2 / variances.freedom + squares.sum(axis=-1)
    freedom = np.divide(variance**2, squares, out=np.full_like(variance, inf), where=squares > 0)
    return np.sqrt(variance), freedom


def _between(variances: Variances) -> np.ndarray:
    """The part of the variance that the seeds add to the residual, [..., sources]."""
    return np.maximum(variances.seeds - variances.residuals, 0)


def findable(variances: Variances, pairs: int) -> float:
    """The true difference that is found in `POWER` of the cases.

    Found: p is below 5% with Bonferroni's correction for all pairs. The test's own standard error
    and degrees of freedom vary from run to run, and with few seeds very much. So they are drawn
    `DRAWS` times, from mean squares that have a chi-square distribution. The variance of the seeds
    is the median-unbiased estimate.
    """
    from scipy.optimize import brentq
    from scipy.special import chdtri, ndtr, stdtrit

    of_seeds, residuals = variances.counts - 1, variances.residuals
    medians = chdtri(of_seeds, 0.5) / of_seeds
    between = _between(replace(variances, seeds=variances.seeds / medians))
    units = max(variances.units, residuals.sum())
    error = math.sqrt(units + between.sum())
    if error == 0 or math.isnan(error):
        return error

    freedom = variances.freedom
    drawn = _chi_squares(freedom, tuple(of_seeds.tolist()))
    seen = Variances(
        units * drawn.units / freedom,
        freedom,
        (between + residuals) * drawn.seeds / of_seeds,
        residuals * drawn.residuals / (freedom * of_seeds),
        variances.counts,
    )
    errors, freedoms = _error_and_freedom(seen)
    limits = errors * stdtrit(freedoms, 1 - LEVEL / 2 / pairs)

    def missed(difference: float) -> float:
        return POWER - float(ndtr((difference - limits) / error).mean())

    return brentq(missed, 0.0, limits.max() + 10 * error, rtol=1e-6)


class _ChiSquares(NamedTuple):
    """`DRAWS` numbers for each mean square, before they are scaled: see `Variances`.

    units: [DRAWS]. seeds, residuals: [DRAWS, sources].
    """

    units: np.ndarray
    seeds: np.ndarray
    residuals: np.ndarray


@lru_cache(MOST_SEEDS)
def _chi_squares(freedom: int, of_seeds: tuple[float, ...]) -> _ChiSquares:
    """Draws from chi-square distributions. They are the same for all pairs with as many seeds.

    freedom, of_seeds: the degrees of freedom of the units, and of the seeds of each source.
    """
    rng = np.random.default_rng(0)
    shape = DRAWS, len(of_seeds)
    units = rng.chisquare(freedom, DRAWS)
    seeds = rng.chisquare(of_seeds, shape)
    residuals = rng.chisquare(freedom * np.array(of_seeds), shape)
    return _ChiSquares(units, seeds, residuals)


def seeds_needed(variances: Variances, pairs: int, difference: float) -> float:
    """The smallest number of seeds of each model for which `findable` is at most a difference.

    It is infinite if `MOST_SEEDS` are too few, and NaN if the run says nothing about the variation
    of seeds, because each model has one.
    """
    if not len(variances.counts):
        return nan
    numbers = range(2, MOST_SEEDS + 1)
    place = bisect_left(
        numbers,
        True,
        key=lambda number: findable(_with_seeds(variances, number), pairs) <= difference,
    )
    return numbers[place] if place < len(numbers) else inf


def _with_seeds(variances: Variances, number: int) -> Variances:
    """The parts of the variance with another number of seeds, if each seed varies as here."""
    ratios = variances.counts / number
    of_problems = max(variances.units - variances.residuals.sum(), 0)
    residuals = ratios * variances.residuals
    return replace(
        variances,
        units=of_problems + residuals.sum(),
        seeds=ratios * variances.seeds,
        residuals=residuals,
        counts=np.full_like(variances.counts, number),
    )
