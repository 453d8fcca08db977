"""Intervals and tests for scores and their differences, with statsmodels and scipy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 9999
# The least number of discordant problems with which an exact McNemar test can reach the 5% level:
# 2 / 2^6 < 0.05 < 2 / 2^5.
FEWEST_DISCORDANT = 6


@dataclass(frozen=True)
class Comparison:
    """Two models on the same problems. Shares are from 0 to 1.

    both, only_first, only_second, neither: the numbers of problems, by the models that solve them.
    difference: the second's share minus the first's; low, high: its 95% interval (`tango`).
    p_value: exact McNemar test that the first and the second model solve a discordant problem
    with equal probability.
    needed: the number of problems that would show this difference at the 5% level with a power of
    80% (paired t test); None without a difference, or if all problems have the same difference.
    detectable: the difference that this number of problems would show with that power, if the
    outcomes vary as here, and at least the smallest difference that the test can show. None if the
    problems are too few for any.
    """

    problems: int
    both: int
    only_first: int
    only_second: int
    neither: int
    difference: float
    low: float
    high: float
    p_value: float
    needed: int | None
    detectable: float | None


def interval(shares: Sequence[float]) -> tuple[float, float]:
    """A 95% interval for the mean over the problems of the share of samples that pass.

    Wilson's if each share is 0 or 1, or if all are equal; otherwise a bootstrap over the problems.
    """
    import numpy as np

    if set(shares) <= {0.0, 1.0}:
        return wilson(int(sum(shares)), len(shares))
    if len(set(shares)) == 1:  # all resamples would be equal and the interval would have no width
        return wilson(sum(shares), len(shares))
    return _bootstrap(np.asarray(shares))


def wilson(passed: float, count: int) -> tuple[float, float]:
    """The Wilson 95% interval of a share."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(passed, count, alpha=1 - CONFIDENCE, method="wilson")
    return float(low), float(high)


def compare(first: Sequence[bool], second: Sequence[bool]) -> Comparison:
    """Compare two models. first, second: whether they solve each of the same problems, in order."""
    import numpy as np
    from statsmodels.stats.contingency_tables import mcnemar

    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    table = [
        [int((first & second).sum()), int((first & ~second).sum())],
        [int((~first & second).sum()), int((~first & ~second).sum())],
    ]
    differences = second.astype(float) - first
    low, high = tango(table[0][1], table[1][0], len(first))
    return Comparison(
        problems=len(first),
        both=table[0][0],
        only_first=table[0][1],
        only_second=table[1][0],
        neither=table[1][1],
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_value=float(mcnemar(table, exact=True).pvalue),
        needed=_needed(differences),
        detectable=_detectable(differences),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values after Holm's correction: the chance of any false finding is at most 5%."""
    from statsmodels.stats.multitest import multipletests

    return [float(value) for value in multipletests(p_values, method="holm")[1]]


def tango(only_first: int, only_second: int, count: int) -> tuple[float, float]:
    """The 95% score interval of the difference of paired shares, the second's minus the first's.

    It holds all differences that a score test does not reject. Without discordant pairs it still
    has a width. T. Tango: Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design. Statistics in Medicine 17 (1998) 891-908.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    observed = only_second - only_first

    def excess(difference: float) -> float:
        """(statistic^2 - z^2) times the variance: negative inside the interval."""
        spread = difference * (1 - difference)
        b = (2 * count - observed) * difference - only_first - only_second
        # The maximum-likelihood share that only the first solves, given the difference.
        root = math.sqrt(max(b * b + 8 * count * only_first * spread, 0.0))
        share = (root - b) / (4 * count)
        return (observed - count * difference) ** 2 - z * z * count * (2 * share + spread)

    def limit(end: int) -> float:
        start = observed / count + end * 1e-9
        return float(brentq(excess, start, end)) if abs(start) < 1 else float(end)

    return limit(-1), limit(1)


def _bootstrap(differences) -> tuple[float, float]:
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        (differences,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _needed(differences) -> int | None:
    from statsmodels.stats.power import TTestPower

    spread = differences.std(ddof=1) if len(differences) > 1 else 0.0
    if spread == 0 or differences.mean() == 0:
        return None
    effect = abs(differences.mean()) / spread
    found = TTestPower().solve_power(effect_size=effect, alpha=1 - CONFIDENCE, power=POWER)
    return math.ceil(float(found))


def _detectable(differences) -> float | None:
    from statsmodels.stats.power import TTestPower

    count = len(differences)
    if count < FEWEST_DISCORDANT:
        return None
    effect = TTestPower().solve_power(nobs=count, alpha=1 - CONFIDENCE, power=POWER)
    found = max(FEWEST_DISCORDANT / count, float(effect * differences.std(ddof=1)))
    return found if found <= 1 else None
