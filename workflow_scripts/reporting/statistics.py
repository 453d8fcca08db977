"""What two evaluations on the same problems say about a difference, by statsmodels and scipy."""

from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 9999


@dataclass(frozen=True)
class Comparison:
    """Two models on the same problems. Shares are from 0 to 1.

    both, only_first, only_second, neither: numbers of problems by who solved them.
    difference: of the second's share from the first's; low, high: its 95% interval, by a paired
    bootstrap (percentiles of 9999 resamples of the problems).
    p_value: exact McNemar test, whether the discordant problems may be a fair coin's.
    needed: how many problems would show this difference at the 5% level with a power of 80% (paired
    t test); None where there is no difference, or nothing but it.
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


def interval(shares: Sequence[float]) -> tuple[float, float]:
    """A 95% interval of the mean of the problems' shares of samples that pass.

    Wilson's, where there is one sample of each; else by a bootstrap over the problems.
    """
    import numpy as np

    if set(shares) <= {0.0, 1.0}:
        return wilson(int(sum(shares)), len(shares))
    return _bootstrap(np.asarray(shares))


def wilson(passed: int, count: int) -> tuple[float, float]:
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
    low, high = _bootstrap(differences)
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
    )


def _bootstrap(differences) -> tuple[float, float]:
    import numpy as np
    from scipy.stats import bootstrap

    if (differences == differences[0]).all():
        return float(differences[0]), float(differences[0])
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
    import math

    from statsmodels.stats.power import TTestPower

    spread = differences.std(ddof=1) if len(differences) > 1 else 0.0
    if spread == 0 or differences.mean() == 0:
        return None
    effect = abs(differences.mean()) / spread
    found = TTestPower().solve_power(effect_size=effect, alpha=1 - CONFIDENCE, power=POWER)
    return math.ceil(float(found))
