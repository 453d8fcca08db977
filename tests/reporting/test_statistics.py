"""Intervals of scores against scipy, and Holm's correction."""

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from xft.reporting.statistics import holm, interval, significant, wilson


@pytest.mark.parametrize(("passed", "count"), [(0, 10), (3, 10), (94, 164), (164, 164)])
def test_wilson(passed, count):
    expected = binomtest(passed, count).proportion_ci(method="wilson")
    low, high = wilson(passed, count)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low < high <= 1
    assert interval([1.0] * passed + [0.0] * (count - passed)) == wilson(passed, count)


def test_the_interval_of_several_samples_is_a_bootstrap_over_the_problems():
    shares = np.random.default_rng(0).choice([0, 0.25, 0.5, 1], size=140)
    found = bootstrap((shares,), np.mean, n_resamples=19_999, method="percentile", rng=1)
    expected = found.confidence_interval
    assert interval(list(shares)) == pytest.approx((expected.low, expected.high), abs=0.006)
    # Where all problems are alike nothing is known of others, and the interval has a width.
    assert interval([0.5] * 4) == wilson(2, 4)


def test_holm():
    """The smallest of three p-values counts three times, the next one twice, and none less."""
    assert holm([0.03, 0.01, 0.5]) == pytest.approx([0.06, 0.03, 0.5])
    assert holm([0.02, 0.021, 0.021]) == pytest.approx([0.06, 0.06, 0.06])
    assert holm([0.4, 0.6]) == [0.8, 0.8]
    assert holm([0.5, 0.6]) == [1, 1]


def test_a_p_value_of_5_percent_is_not_significant():
    assert significant([0.05]) == significant([0.025, 0.9])[:1] == [False]
    assert significant([0.0499]) == [True]
