"""Compares two models: difference, interval and p-value."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan

import numpy as np

from xft.reporting.bootstrap import DIGITS, LEVEL, Measured, quantiles, tail
from xft.reporting.random_effects import Units, error_and_freedom


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


def compare(pairs: Sequence[tuple[Measured, Measured]], most: float = inf) -> Difference:
    """Compare two models. pairs: their measures on each set of units. most: the largest difference.

    With one seed of each model: a paired bootstrap over the units, with sets of units as strata.
    With several: random effects of units and seeds, and Student's t. If both models have the same
    seeds, these are paired too.

    p is at least 2 / 2^k if the models differ on k units, since no test that exchanges the models
    on each unit gives less.
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
    error, freedom = error_and_freedom(units, sources, of_units)
    if not error:
        return float(not difference), (difference, difference)
    half = error * stdtrit(freedom, 1 - LEVEL / 2)
    p_value = 2 * stdtr(freedom, -abs(difference) / error)
    return float(p_value), (difference - half, difference + half)
