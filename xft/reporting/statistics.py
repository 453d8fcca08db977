"""Intervals for scores, and Holm's correction."""

import math
from collections.abc import Sequence
from statistics import NormalDist

from xft.reporting.bootstrap import LEVEL, measure, quantiles


def interval(shares: Sequence[float]) -> tuple[float, float]:
    """A 95% interval for the mean over the problems of the share of samples that pass.

    Wilson's if each share is 0 or 1, or if all are equal; otherwise a bootstrap over the problems.
    """
    # Where all shares are equal, all resamples are too: their interval would have no width.
    if set(shares) <= {0.0, 1.0} or len(set(shares)) == 1:
        return wilson(sum(shares), len(shares))
    (found,) = measure([{None: shares}])
    return quantiles(found.means)


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
