"""Intervals and tests against closed forms and counting."""

import math
from itertools import product

import numpy as np
import pytest

from workflow_scripts.reporting.statistics import compare, wilson


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


def test_the_bootstrap_interval_is_near_the_normal_one():
    found = compare(*solved(300, 40, 80, 180))
    differences = np.array([-1] * 40 + [1] * 80 + [0] * 480)
    error = differences.std() / math.sqrt(600)
    assert found.low == pytest.approx(found.difference - 1.96 * error, abs=0.004)
    assert found.high == pytest.approx(found.difference + 1.96 * error, abs=0.004)
    assert compare(*solved(300, 40, 80, 180)) == found


def test_needed_problems_show_the_difference_four_times_in_five():
    found = compare(*solved(300, 80, 120, 100))
    differences = np.array([-1] * 80 + [1] * 120 + [0] * 400)
    draws = np.random.default_rng(0).choice(differences, size=(4000, found.needed))
    t_values = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / math.sqrt(found.needed))
    assert np.mean(np.abs(t_values) > 1.96) == pytest.approx(0.8, abs=0.03)


def test_models_that_solve_the_same():
    found = compare(*solved(5, 0, 0, 5))
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert (found.p_value, found.needed) == (1, None)
