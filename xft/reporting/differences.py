"""Compares two models: difference, interval and p-value.

With several seeds, seeds and units are random effects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan

import numpy as np

from xft.reporting.bootstrap import DIGITS, LEVEL, Measured, quantiles, tail

NEGATIVE = 0.5  # see `_error_and_freedom`


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

    sets: the names and the shares of the units of each set. A set counts by its number of units.
    weights: for each set [units], of the units in the mean over all sets.
    """

    def __init__(self, sets: Sequence[tuple[Sequence, np.ndarray]]):
        sizes = np.array([len(names) for names, _ in sets])
        places: dict = {}
        self.places = [
            np.array([places.setdefault(name, len(places)) for name in names]) for names, _ in sets
        ]
        self.names = len(places)
        self.weights = [
            size / sizes.sum() * shares for size, (_, shares) in zip(sizes, sets, strict=True)
        ]
        self.scales = np.sqrt(sizes / np.maximum(sizes - 1, 1))
        self.freedom = min((sizes - 1).sum(), self.names - 1)

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


def compare(pairs: Sequence[tuple[Measured, Measured]], most: float = inf) -> Difference:
    """Compare two models.

    With one seed of each model: a paired bootstrap over the units, with sets of units as strata.
    With several: random effects of units and seeds, and Student's t. If both models have the same
    seeds, these are paired too.

    p is at least 2 / 2^k if the models differ on k units, since no test that exchanges the models
    on each unit gives less.

    pairs: their measures on each set of units.
    most: the largest difference.
    """
    first, second = pairs[0]
    units = Units([(measured.names, measured.shares) for measured, _ in pairs])
    by_unit = [b.values.mean(axis=0) - a.values.mean(axis=0) for a, b in pairs]
    difference = round(float(units.mean(by_unit)), DIGITS)
    error = units.variance([values[None] for values in by_unit]) ** 0.5
    if first.means is not None and second.means is not None:
        drawn = sum(
            weights.sum() * (b.means - a.means)
            for weights, (a, b) in zip(units.weights, pairs, strict=True)
        )
        p_value, ends = tail(drawn, difference), quantiles(drawn)
    else:
        p_value, ends = _by_random_effects(units, pairs, difference, error)
    low, high = np.clip(np.round(ends, DIGITS), -most, most).tolist()
    if low == high or not units.freedom:
        low = high = nan
    p_value = min(1.0, max(p_value, 2.0 ** (1 - units.differing(by_unit))))
    counts = sum(map(len, by_unit)), len(first.seeds), len(second.seeds)
    return Difference(*counts, difference, low, high, p_value, error)


def _by_random_effects(
    units: Units, pairs: Sequence[tuple[Measured, Measured]], difference: float, of_units: float
) -> tuple[float, tuple[float, float]]:
    """The p-value, and the ends of the 95% interval.

    of_units: the standard error over the units.
    """
    from scipy.special import stdtr, stdtrit

    if pairs[0][0].seeds == pairs[0][1].seeds:
        sources = [[second.values - first.values for first, second in pairs]]
    else:
        sources = [[-first.values for first, _ in pairs], [second.values for _, second in pairs]]
    error, freedom = _error_and_freedom(units, sources, of_units)
    if not error:
        return float(not difference), (difference, difference)
    half = error * stdtrit(freedom, 1 - LEVEL / 2)
    p_value = 2 * stdtr(freedom, -abs(difference) / error)
    return float(p_value), (difference - half, difference + half)


def _error_and_freedom(
    units: Units, sources: Sequence[Sequence[np.ndarray]], of_units: float
) -> tuple[float, float]:
    """The standard error of the sum of the sources' means, and its degrees of freedom.

    Searle, Casella, McCulloch, Variance Components (1992), section 4.3: with the mean squares MS of
    P units, S seeds and the residual, the variance of a mean is (MS_units + MS_seeds - MS_residual)
    / (S P), with negative components 0. The degrees of freedom are Satterthwaite's (Biometrics
    Bulletin 2 (1946) 110-114): V^2 / sum(V_i^2 / f_i) for mean squares V_i with f_i. The term of a
    mean square of seeds that is smaller than the residual's counts `NEGATIVE`. It holds the tests
    near their level (`benchmarks.statistics`): left out, 3 seeds that shift a score by 3 points
    make 2% of the p-values smaller than 0.001.

    sources: what the seeds of a model add to the difference, for each set [seeds, units]: the
    paired differences, or each model alone if their seeds differ. A source with one seed shows no
    variation of seeds.
    of_units: the standard error over the units, of the mean over the seeds.
    """
    freedom = max(units.freedom, 1)
    seeds = residuals = 0.0
    squares = of_units**4 / freedom
    for source in sources:
        count = len(source[0])
        if count == 1:
            continue
        of_seeds = float(units.mean(source).var(ddof=1)) / count
        rest = [values - values.mean(axis=0) for values in source]
        residual = units.variance(rest) / (count * (count - 1))
        seeds += max(of_seeds - residual, 0.0)
        residuals += residual
        weight = 1 if of_seeds > residual else NEGATIVE
        squares += weight * of_seeds**2 / (count - 1)
        squares += residual**2 / (freedom * (count - 1))
    variance = max(of_units**2, residuals) + seeds
    return variance**0.5, variance**2 / squares if squares else inf
