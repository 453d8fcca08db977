"""Intervals of scores and Holm's correction against closed forms and scipy."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from xft.reporting.statistics import holm, interval, wilson


@pytest.mark.parametrize(("passed", "count"), [(0, 10), (3, 10), (94, 164), (164, 164)])
def test_wilson(passed, count):
    """(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)"""
    z, share = 1.959963984540054, passed / count
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    expected = [(middle + sign * spread) / (1 + z * z / count) for sign in (-1, 1)]
    assert wilson(passed, count) == pytest.approx(expected, abs=1e-9)
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
