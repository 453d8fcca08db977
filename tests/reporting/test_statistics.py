"""Intervals and tests against closed forms and counting."""

import math
from itertools import product

import numpy as np
import pytest

from xft.reporting.statistics import compare, interval, tango, wilson


@pytest.mark.parametrize(("passed", "count"), [(0, 10), (3, 10), (94, 164), (164, 164)])
def test_wilson(passed, count):
    """(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)"""
    z, share = 1.959963984540054, passed / count
    middle = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    expected = [(middle + sign * spread) / (1 + z * z / count) for sign in (-1, 1)]
    assert wilson(passed, count) == pytest.approx(expected, abs=1e-9)


def solved(both, only_first, only_second, neither):
    first = [1] * both + [1] * only_first + [0] * only_second + [0] * neither
    second = [1] * both + [0] * only_first + [1] * only_second + [0] * neither
    return first, second


def test_counts_and_exact_p_value():
    """p: the share of coin tosses of 2 + 9 discordant problems at least as uneven."""
    found = compare(*solved(50, 2, 9, 20))
    assert (found.problems, found.both, found.only_first, found.only_second) == (81, 50, 2, 9)
    assert found.neither == 20
    assert found.difference == pytest.approx(7 / 81)
    tosses = [sum(toss) for toss in product((0, 1), repeat=11)]
    uneven = sum(heads <= 2 or heads >= 9 for heads in tosses) / len(tosses)
    assert found.p_value == pytest.approx(uneven)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # M. W. Fagerland, S. Lydersen, P. Laake: Recommended tests and confidence intervals for
        # paired binomial proportions. Statistics in Medicine 33 (2014) 2850-2875, the two examples.
        ((1, 1, 7, 12), 0.026, 0.517),
        ((59, 6, 16, 80), 0.0054, 0.1240),
        # PropCIs::scoreci.mp(60, 20, 1000) of R.
        ((0, 60, 20, 920), -0.0584, -0.0231),
    ],
)
def test_tango_s_interval_is_the_published_one(counts, low, high):
    found = compare(*solved(*counts))
    digits = max(len(str(abs(low))), len(str(abs(high)))) - 2
    assert (round(found.low, digits), round(found.high, digits)) == (low, high)
    mirrored = compare(*solved(counts[0], counts[2], counts[1], counts[3]))
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize("problems", [1, 8, 140])
def test_without_a_discordant_problem_the_interval_has_a_width(problems):
    """The score statistic is n D / sqrt(n D (1 - D)) then, which is z at z^2 / (n + z^2)."""
    for both in (0, problems // 2, problems):
        found = compare(*solved(both, 0, 0, problems - both))
        width = 1.959963984540054**2 / (problems + 1.959963984540054**2)
        assert (found.low, found.high) == pytest.approx((-width, width))
        assert (found.difference, found.p_value, found.needed) == (0, 1, None)


def test_the_interval_ends_where_nothing_more_is_possible():
    """The score statistic is the root of n (1 - D) / (1 + D), which is z at this D."""
    found = compare(*solved(0, 0, 8, 0))
    assert found.high == found.difference == 1
    z_squared = 1.959963984540054**2
    assert found.low == pytest.approx((8 - z_squared) / (8 + z_squared))


def test_the_interval_of_every_small_table_holds_its_difference():
    for first in range(13):
        for second in range(13 - first):
            low, high = tango(first, second, 12)
            assert -1 <= low <= (second - first) / 12 <= high <= 1
            assert high - low > 0.1


def test_the_interval_is_near_the_normal_one_where_there_are_many_problems():
    found = compare(*solved(300, 40, 80, 180))
    differences = np.array([-1] * 40 + [1] * 80 + [0] * 480)
    error = differences.std() / math.sqrt(600)
    assert found.low == pytest.approx(found.difference - 1.96 * error, abs=0.004)
    assert found.high == pytest.approx(found.difference + 1.96 * error, abs=0.004)


def test_the_interval_of_shares_has_a_width_where_all_are_equal():
    """Of several samples a problem's share may be any; of problems alike nothing is known."""
    low, high = interval([0.5] * 4)
    assert low == pytest.approx(wilson(2, 4)[0]) and high == pytest.approx(wilson(2, 4)[1])
    assert interval([0.25, 0.5, 0.5, 0.75]) == interval([0.25, 0.5, 0.5, 0.75])


def test_a_detectable_difference_is_shown_four_times_in_five():
    """Draw pairs with the detectable difference. As many of them differ as in the example."""
    found = compare(*solved(60, 15, 15, 50))
    differing, count = 30 / 140, 140
    better = (differing + found.detectable) / 2
    draws = np.random.default_rng(0).multinomial(
        count, [better, differing - better, 1 - differing], size=4000
    )
    t_values = [
        (a - b) / math.sqrt(a + b - (a - b) ** 2 / count) for a, b in draws[:, :2].astype(float)
    ]
    assert np.mean(np.abs(t_values) > 1.96) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(("problems", "detectable"), [(5, None), (6, 1.0), (8, 0.75), (600, 0.01)])
def test_fewer_than_six_discordant_problems_never_show(problems, detectable):
    """Six tosses of a coin that all fall alike: p = 2 / 2^6 < 0.05; five: p = 2 / 2^5."""
    found = compare(*solved(0, 0, 0, problems))
    assert found.detectable == (detectable and pytest.approx(detectable))
    assert compare(*solved(0, 5, 0, 9)).p_value > 0.05 > compare(*solved(0, 6, 0, 9)).p_value


def test_needed_problems_show_the_difference_four_times_in_five():
    found = compare(*solved(300, 80, 120, 100))
    differences = np.array([-1] * 80 + [1] * 120 + [0] * 400)
    draws = np.random.default_rng(0).choice(differences, size=(4000, found.needed))
    t_values = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / math.sqrt(found.needed))
    assert np.mean(np.abs(t_values) > 1.96) == pytest.approx(0.8, abs=0.03)
