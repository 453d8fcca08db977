"""What two evaluations on the same problems say about a difference, by statsmodels and scipy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 9999
FEWEST_DISCORDANT = 6  # 2 / 2^6 < 0.05 < 2 / 2^5: fewer never show in an exact McNemar test


@dataclass(frozen=True)
class Comparison:
    """Two models on the same problems. Shares are from 0 to 1.

    both, only_first, only_second, neither: numbers of problems by who solved them.
    difference: the second's share minus the first's; low, high: its 95% interval (`tango`).
    p_value: exact McNemar test, whether the discordant problems may be a fair coin's.
    needed: how many problems would show this difference at the 5% level with a power of 80% (paired
    t test); None where there is no difference, or nothing but it.
    detectable: the difference that so many problems would show with that power, if as many of them
    differed as here; never less than the test can show. None where they can show none.
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
    """A 95% interval of the mean of the problems' shares of samples that pass.

    Wilson's, where there is one sample of each; else by a bootstrap over the problems.
    """
    import numpy as np

    if set(shares) <= {0.0, 1.0}:
        return wilson(int(sum(shares)), len(shares))
    if len(set(shares)) == 1:  # resamples would all be alike, as if the mean were certain
        return wilson(sum(shares), len(shares))
    return _bootstrap(np.asarray(shares))


def wilson(passed: float, count: int) -> tuple[float, float]:
    """The Wilson 95% interval of a share."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(passed, count, alpha=1 - CONFIDENCE, method="wilson")
    return float(low), float(high)


def compare(first: Sequence[bool], second: Sequence[bool]) -> Comparison:
    """Compare what two models solved; the same problems in the same order."""
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
    """The p-values, corrected for their number: of all errors together at most 5% may occur."""
    from statsmodels.stats.multitest import multipletests

    return [float(value) for value in multipletests(p_values, method="holm")[1]]


def tango(only_first: int, only_second: int, count: int) -> tuple[float, float]:
    """The 95% score interval of the difference of paired shares, the second's minus the first's.

    It holds the differences that a score test does not refute, and has a width without discordant
    pairs too. T. Tango: Equivalence test and confidence interval for the difference in proportions
    for the paired-sample design. Statistics in Medicine 17 (1998) 891-908.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    observed = only_second - only_first

    def excess(difference: float) -> float:
        """The score statistic's square minus z's, times the variance: negative within."""
        spread = difference * (1 - difference)
        b = (2 * count - observed) * difference - only_first - only_second
        # The likeliest share that the first alone solves, given the difference.
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
