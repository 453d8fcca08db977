"""Intervals over seeds and problems against scipy, closed forms and counting."""

from itertools import product
from statistics import NormalDist

import numpy as np
import pytest

from xft.reporting.bootstrap import compare, measure

Z = 1.959963984540054


def compared(first, second, seeds=None, weights=None, **most):
    """The comparison of values [seeds, units]. seeds: of both models; by default the first ones."""
    seeds = seeds or (range(len(first)), range(len(second)))
    models = [dict(zip(*both, strict=True)) for both in zip(seeds, (first, second), strict=True)]
    return compare([tuple(measure(models, weights))], **most)


def test_a_mean_over_tokens_has_the_variance_of_a_ratio():
    """Var = sum of w^2 (d - mean)^2 / (sum of w)^2, for many rows."""
    rng = np.random.default_rng(2)
    tokens = rng.integers(1, 100, 800)
    first = rng.gamma(2, 0.5, (1, 800))
    second = first + rng.normal(0.02, 0.1, (1, 800))
    found = compared(first, second, weights=tokens)
    differences = (second - first)[0]
    mean = np.average(differences, weights=tokens)
    error = np.sqrt((tokens**2 * (differences - mean) ** 2).sum()) / tokens.sum()
    assert found.difference == pytest.approx(mean)
    assert found.high - found.low == pytest.approx(2 * Z * error, rel=0.03)


def test_all_resamples_of_few_seeds_and_problems():
    """3^3 x 5^5 resamples, with the seeds' deviations times the root of 3 / 2."""
    rng = np.random.default_rng(3)
    values = rng.normal(0.4, 1, (3, 5))
    found = compared(np.zeros((3, 5)), values)
    problems = np.array(list(product(range(5), repeat=5)))
    by_seed = values[:, problems].mean(axis=2)  # [seeds, resamples]
    whole = by_seed.mean(axis=0)
    drawn = np.concatenate(
        [
            whole + np.sqrt(3 / 2) * (by_seed[list(chosen)].mean(axis=0) - whole)
            for chosen in product(range(3), repeat=3)
        ]
    )
    beyond = min((drawn <= 0).mean(), (drawn >= 0).mean())
    assert beyond > 0.05
    assert found.p_value == pytest.approx(2 * beyond, abs=0.02)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)


def test_equal_seeds_are_drawn_together():
    """What a seed does to both models cancels, unless the seeds are others."""
    rng = np.random.default_rng(5)
    seeds, problems = rng.normal(size=(4, 1)), rng.normal(size=(1, 100))
    first, second = seeds + problems, seeds + problems + rng.normal(0.1, 1, (1, 100))
    paired = compared(first, second)
    error = (second - first).mean(axis=0).std() / 10
    assert paired.error == pytest.approx(error)
    assert paired.high - paired.low == pytest.approx(2 * Z * error, rel=0.05)
    others = compared(first, second, (range(4), range(4, 8)))
    error = np.hypot(error, np.sqrt(2) * seeds.std(ddof=1) / 2)
    assert (others.difference, others.error) == (paired.difference, paired.error)
    assert others.high - others.low == pytest.approx(2 * Z * error, rel=0.1)


def test_sets_of_problems_are_strata():
    rng = np.random.default_rng(6)
    differences = [rng.normal(mean, 1, count) for mean, count in ((0, 50), (5, 150))]
    found = compare(
        [
            tuple(measure([{None: np.zeros_like(values)}, {None: values}], units=number))
            for number, values in enumerate(differences)
        ]
    )
    assert found.problems == 200
    assert found.difference == pytest.approx(np.concatenate(differences).mean())
    # A draw of problems from both sets together would have the variance between them too.
    error = np.sqrt(sum(values.var() * values.size for values in differences)) / 200
    assert found.high - found.low == pytest.approx(2 * Z * error, rel=0.05)


@pytest.mark.parametrize(("differing", "p_value"), [(0, 1), (3, 0.25), (5, 0.0625), (8, 2**-7)])
def test_few_problems_that_differ_show_nothing(differing, p_value):
    """Eight problems. The second model always solves some that the first one never solves."""
    second = np.repeat(np.arange(8)[None] < differing, 3, axis=0).astype(float)
    found = compared(np.zeros((3, 8)), second)
    assert found.p_value == p_value
    assert found.difference == differing / 8


def test_a_p_value_below_those_of_the_resamples_is_that_of_a_normal_distribution():
    """Of 600 pairs none could be significant otherwise. Six standard errors, 400 problems."""
    differences = np.random.default_rng(9).normal(size=400)
    differences += 6 * differences.std() / 20 - differences.mean()
    found = compared(np.zeros((1, 400)), differences[None])
    assert np.log10(found.p_value) == pytest.approx(np.log10(2 * NormalDist().cdf(-6)), abs=0.3)


def test_a_difference_is_exactly_a_share_of_the_problems():
    """13 of 80 are 16.25%: its last bit decides whether a text says what a table of shares says."""
    assert compared(np.zeros((1, 80)), np.arange(80)[None] < 13).difference == 13 / 80


def test_an_interval_stays_within_the_range_of_the_difference():
    """With one seed of two that solves all, the scaled deviations reach beyond 100%."""
    first, second = np.zeros((2, 4)), np.array([[0] * 4, [1] * 4])
    assert compared(first, second).high > 1
    assert compared(first, second, most=1).high == 1
    assert compared(second, first, most=1).low == -1


def test_one_unit_gives_no_interval():
    """Neither one alone, nor one of each data set: resamples are all the same."""
    one = tuple(measure([{0: [0.3]}, {0: [0.5]}]))
    for found in compare([one]), compare([one, one]):
        assert found.difference == pytest.approx(0.2)
        assert np.isnan([found.low, found.high]).all()


def test_nineteen_intervals_in_twenty_hold_the_difference():
    """Pairs of models without a difference; each seed and problem is a draw of its own."""
    rng = np.random.default_rng(7)
    skill = rng.normal(0, 1.5, (100, 1, 1, 60)) + rng.normal(0, 0.2, (100, 2, 4, 1))
    solved = (rng.random(skill.shape) < 1 / (1 + np.exp(-8 * skill))).astype(float)
    models = measure([dict(enumerate(values)) for pair in solved for values in pair])
    found = [compare([pair]) for pair in zip(models[::2], models[1::2], strict=True)]
    assert 90 <= sum(one.low <= 0 <= one.high for one in found) <= 99


def test_neither_other_models_nor_their_order_change_a_comparison():
    rng = np.random.default_rng(8)
    models = [dict(enumerate(rng.random((2, 30)))) for _ in range(3)]
    first, _, third = measure(models)
    found, mirrored = compare([(first, third)]), compare([(third, first)])
    last, begin = measure([dict(reversed(models[2].items())), models[0]])
    assert found == compare([(begin, last)])
    assert (-mirrored.high, -mirrored.low) == pytest.approx((found.low, found.high))
