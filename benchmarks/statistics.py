"""Simulates experiments, to see how often the report's statistics are wrong.

Each experiment compares two models on the same problems, whose difficulty is drawn from Beta(0.6,
0.8): the probability that a model solves them. A seed shifts the logits of all problems of a model
by a normal number, whose standard deviation is given in percentage points of the score. Rejected:
the share of p-values below 5%, 1% and 0.1% without a difference of the models. Power: the share
below 5% with one. Coverage: the share of 95% intervals that contain the true difference, with and
without one.

    python -m benchmarks.statistics
    python -m benchmarks.statistics --settings 8

With --settings each of the two models is the best of so many settings, which do not differ: that
with the lowest mean loss over the seeds on choice rows. A seed shifts the losses of a setting. The
losses that are compared are of other rows, for the same trained models, and so are the scores,
which fall as the shifted loss rises.
"""

import argparse
import itertools
from collections.abc import Iterator

import numpy as np

from benchmarks.timing import markdown_table
from xft.reporting.statistics import Difference, compare, measure

SEEDS, SHIFTS, PROBLEMS = (1, 2, 3, 5), (0, 1, 3, 7), (164, 542)
ALPHA, BETA = 0.6, 0.8
# The score that a shift of the logits adds: E[p (1 - p)] of the beta distribution.
SLOPE = ALPHA * BETA / ((ALPHA + BETA) * (ALPHA + BETA + 1))
BATCH = 100
# Of --settings: rows that choose and rows that are compared, the deviation of a row's loss between
# two trained models, and problems.
CHOICE_ROWS, ROWS, ROW_NOISE, SCORED = 100, 100, 0.05, 164


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=4000)
    parser.add_argument("--points", type=float, default=5, help="The difference, for the power.")
    parser.add_argument("--settings", type=int, help="Simulate a choice among so many settings.")
    args = parser.parse_args()
    if args.settings:
        print(table_of_choices(args))
        return
    rows = []
    for case in itertools.product(PROBLEMS, SEEDS, SHIFTS):
        equal, better = (list(experiments(*case, points, args)) for points in (0, args.points))
        p_values = np.array([difference.p_value for difference in equal])
        power = np.mean([difference.p_value < 0.05 for difference in better])
        truth = np.mean([difference.difference for difference in better])
        widths = [difference.high - difference.low for difference in equal]
        rejected = [f"{np.mean(p_values < level):.1%}" for level in (0.05, 0.01, 0.001)]
        coverage = [f"{covered(equal, 0):.1%}", f"{covered(better, truth):.1%}"]
        width = f"{100 * np.nanmedian(widths):.1f}"
        rows.append([*map(str, case), *rejected, f"{power:.0%}", *coverage, width])
    heads = ["problems", "seeds", "shift", "rejected at 5%", "1%", "0.1%"]
    heads += [f"power, {args.points:g} points", "coverage", "with a difference", "median width"]
    print(markdown_table(heads, rows))


def experiments(
    problems: int, seeds: int, shift: float, points: float, args: argparse.Namespace
) -> Iterator[Difference]:
    """The comparisons of many experiments. shift, points: percentage points of the score."""
    rng = np.random.default_rng([problems, seeds, int(10 * shift), int(10 * points)])
    for _ in range(args.experiments // BATCH):
        difficulty = rng.beta(ALPHA, BETA, (BATCH, 1, 1, problems))
        moved = rng.normal(0, shift, (BATCH, 2, seeds, 1))
        moved[:, 1] += points
        logits = np.log(difficulty / (1 - difficulty)) + moved / 100 / SLOPE
        solved = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
        measured = measure([dict(enumerate(values)) for pair in solved for values in pair])
        for pair in zip(measured[::2], measured[1::2], strict=True):
            yield compare([pair], most=1)


def table_of_choices(args: argparse.Namespace) -> str:
    """How often a method is called significantly better, though all settings are the same."""
    rows = []
    for seeds, shift in itertools.product((2, 3, 5), (0.0, 0.002, 0.01)):
        losses, scores = zip(*chosen_experiments(seeds, shift, args), strict=True)
        shares = [np.mean([d.p_value < 0.05 for d in found]) for found in (losses, scores)]
        rows.append([str(seeds), f"{shift:g}", *(f"{share:.1%}" for share in shares)])
    return markdown_table(["seeds", "shift", "loss, rejected at 5%", "pass@1"], rows)


def chosen_experiments(
    seeds: int, shift: float, args: argparse.Namespace
) -> Iterator[tuple[Difference, Difference]]:
    """The comparisons of two methods at chosen settings: losses of rows, and scores.

    shift: the standard deviation of a trained model's mean loss, in nats per token.
    """
    rng = np.random.default_rng([seeds, int(1e4 * shift), args.settings])
    shape = 2, args.settings, seeds
    for _ in range(args.experiments):
        moved = rng.normal(0, shift, shape)
        noise = rng.normal(0, ROW_NOISE, (*shape, CHOICE_ROWS))
        choice = (moved + noise.mean(axis=-1)).mean(axis=-1)  # [2, settings]
        best = choice.argmin(axis=1)
        of_best = moved[[0, 1], best]  # [2, seeds]
        rows = rng.gamma(4, 0.25, ROWS) + rng.normal(0, ROW_NOISE, (2, seeds, ROWS))
        losses = rows + of_best[..., None]
        difficulty = rng.beta(ALPHA, BETA, SCORED)
        logits = np.log(difficulty / (1 - difficulty)) - of_best[..., None] / SLOPE
        solved = (rng.random((2, seeds, SCORED)) < 1 / (1 + np.exp(-logits))).astype(float)
        yield tuple(
            compare([tuple(measure([dict(enumerate(values)) for values in of_methods]))], most=most)
            for of_methods, most in ((losses, np.inf), (solved, 1))
        )


def covered(differences: list[Difference], truth: float) -> float:
    """The share of the intervals that contain the true difference."""
    return float(np.mean([found.low <= truth <= found.high for found in differences]))


if __name__ == "__main__":
    main()
