"""Intervals for scores, and Holm's correction, with statsmodels."""

from collections.abc import Sequence

from xft.reporting.bootstrap import CONFIDENCE, measure, quantiles


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
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(passed, count, alpha=1 - CONFIDENCE, method="wilson")
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values after Holm's correction: the chance of any false finding is at most 5%."""
    from statsmodels.stats.multitest import multipletests

    return [float(value) for value in multipletests(p_values, method="holm")[1]]
