"""Simulates experiments, to see how often the report's statistics are wrong.

Each experiment compares two models on the same problems, whose difficulty is drawn from Beta(0.6,
0.8): the probability that a model solves them. A seed shifts the logits of all problems of a model
by a normal number, whose standard deviation is given in percentage points of the score. Rejected:
the share of p-values below 5%, 1% and 0.1% without a difference of the models. Power: the share
below 5% with one. Coverage: the share of 95% intervals that contain the true difference, with and
without one.

    python -m benchmarks.statistics
    python -m benchmarks.statistics --settings 8
    python -m benchmarks.statistics --variants

With --settings each of the two models is the best of so many settings, which do not differ: that
with the lowest mean loss over the seeds on choice rows. A seed shifts the losses of a setting. The
losses that are compared are of other rows, for the same trained models, and so are the scores,
which fall as the shifted loss rises.

With --variants, an experiment is a control and three variants, with the same seeds, and pass@1 and
validation losses. Without a difference: the share of the experiments in which any variant is called
better than the control. With one: the median of the differences of pass@1 that the experiments say
they find in 80% of the cases, and the share in which a variant that is so much better is called so.
"""

import argparse
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from benchmarks.timing import markdown_table
from xft.reporting.comparisons import significant
from xft.reporting.statistics import (
    Difference,
    Measured,
    compare,
    find_variances,
    findable,
    measure,
)

SEEDS, SHIFTS, PROBLEMS = (1, 2, 3, 5), (0, 1, 3, 7), (164, 542)
ALPHA, BETA = 0.6, 0.8
# The score that a shift of the logits adds: E[p (1 - p)] of the beta distribution.
SLOPE = ALPHA * BETA / ((ALPHA + BETA) * (ALPHA + BETA + 1))
BATCH = 100
# Of --settings: rows that choose, rows that are compared, and problems.
CHOICE_ROWS, COMPARED_ROWS, SCORED = 100, 100, 164
VARIANTS = 3
ROWS, ROW_NOISE = 200, 0.05  # validation rows, and a seed's deviation of a row's loss
NATS = 0.003  # of validation loss by which a seed shifts, for a point of the score
# The scores that shifts of the logits add, on average over the problems.
LOGITS = np.linspace(0, 8, 81)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=4000)
    parser.add_argument("--points", type=float, default=5, help="The difference, for the power.")
    parser.add_argument("--settings", type=int, help="Simulate a choice among so many settings.")
    parser.add_argument("--variants", action="store_true", help="Simulate controls and variants.")
    args = parser.parse_args()
    if args.settings:
        print(table_of_choices(args))
    elif args.variants:
        print(of_variants(args.experiments))
    else:
        print(of_pairs(args))


def of_pairs(args: argparse.Namespace) -> str:
    """The table of comparisons of two models."""
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
    return markdown_table(heads, rows)


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
        rejected = [rejected_share(differences) for differences in (losses, scores)]
        rows.append([str(seeds), f"{shift:g}", *rejected])
    return markdown_table(["seeds", "shift", "loss, rejected at 5%", "pass@1"], rows)


def rejected_share(differences: Iterable[Difference]) -> str:
    """The share of differences with a p-value below 5%."""
    is_rejected = [difference.p_value < 0.05 for difference in differences]
    return f"{np.mean(is_rejected):.1%}"


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
        rows = rng.gamma(4, 0.25, COMPARED_ROWS)
        rows = rows + rng.normal(0, ROW_NOISE, (2, seeds, COMPARED_ROWS))
        losses = rows + of_best[..., None]
        difficulty = rng.beta(ALPHA, BETA, SCORED)
        logits = np.log(difficulty / (1 - difficulty)) - of_best[..., None] / SLOPE
        solved = (rng.random((2, seeds, SCORED)) < 1 / (1 + np.exp(-logits))).astype(float)
        yield _compared(losses), _compared(solved, most=1)


def _compared(values: np.ndarray, most: float = np.inf) -> Difference:
    """The comparison of two methods. values: [2, seeds, units]. most: see `compare`."""
    first, second = measure([dict(enumerate(of_method)) for of_method in values])
    return compare([(first, second)], most=most)


def of_variants(count: int) -> str:
    """The table of variants and their control. count: of the experiments."""
    rows = []
    for seeds, shift in ((1, 0), (3, 0), (3, 1), (3, 3), (5, 0), (5, 1), (5, 3)):
        equal = list(variant_experiments(seeds, shift, 0, count))
        better = np.array([[any(scores), any(losses)] for scores, losses, _ in equal])
        size = float(np.median([sizes for *_, sizes in equal]))
        called = "-"
        if size < 0.4:
            power = [scores[0] for scores, *_ in variant_experiments(seeds, shift, size, count)]
            called = f"{np.mean(power):.0%}"
        shares = [f"{share:.1%}" for share in (*better.mean(axis=0), better.any(axis=1).mean())]
        rows.append([str(seeds), str(shift), *shares, f"{100 * size:.1f}", called])
    heads = ["seeds", "shift", "better in pass@1", "in loss", "in either", "finds", "called better"]
    return markdown_table(heads, rows)


def variant_experiments(
    seeds: int, shift: float, gain: float, count: int
) -> Iterator[tuple[list[bool], list[bool], list[float]]]:
    """Of many experiments: whether each variant is called better in pass@1 and in loss, and the
    difference of pass@1 that the comparison finds in 80% of the cases.

    shift: percentage points of the score. gain: of the first variant's score.
    """
    rng = np.random.default_rng([seeds, int(10 * shift), int(1e6 * gain)])
    problems = PROBLEMS[0]
    for _ in range(count // BATCH):
        difficulty = rng.beta(ALPHA, BETA, (BATCH, 1, 1, problems))
        points = rng.normal(0, shift, (BATCH, 1 + VARIANTS, seeds, 1))
        logits = np.log(difficulty / (1 - difficulty)) + points / 100 / SLOPE
        logits[:, 1] += logit_of(gain)
        solved = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
        of_rows = rng.gamma(2, 0.5, (BATCH, 1, 1, ROWS))
        noise = rng.normal(0, ROW_NOISE, (BATCH, 1 + VARIANTS, seeds, ROWS))
        losses = of_rows + noise - NATS * points
        for scores, of_losses in zip(_of_models(solved), _of_models(losses), strict=True):
            sizes = [findable(find_variances([pair]), VARIANTS) for pair in scores]
            yield _better(scores, 1), _better(of_losses, -1), sizes


def logit_of(gain: float) -> float:
    """The shift of the logits of all problems that adds so much to the mean score."""
    rng = np.random.default_rng(0)
    difficulty = rng.beta(ALPHA, BETA, 20_000)
    logits = np.log(difficulty / (1 - difficulty))
    gains = [np.mean(1 / (1 + np.exp(-logits - shift))) - difficulty.mean() for shift in LOGITS]
    return float(np.interp(gain, gains, LOGITS))


def _of_models(values: np.ndarray) -> Iterator[list[tuple[Measured, Measured]]]:
    """The control with each variant, of each experiment.

    values: [experiments, models, seeds, units].
    """
    models = values.shape[1]
    flat = values.reshape(-1, *values.shape[2:])  # [experiments x models, seeds, units]
    measured = measure([dict(enumerate(of_model)) for of_model in flat])
    for start in range(0, len(measured), models):
        control, *variants = measured[start : start + models]
        yield [(control, variant) for variant in variants]


def _better(pairs: list[tuple[Measured, Measured]], sign: int) -> list[bool]:
    """Which variants are called better, after Holm's correction. sign: of a better difference."""
    differences = [compare([pair]) for pair in pairs]
    is_significant = significant([difference.p_value for difference in differences])
    return [
        is_found and sign * difference.difference > 0
        for is_found, difference in zip(is_significant, differences, strict=True)
    ]


def covered(differences: list[Difference], truth: float) -> float:
    """The share of the intervals that contain the true difference."""
    is_covered = [difference.low <= truth <= difference.high for difference in differences]
    return float(np.mean(is_covered))


if __name__ == "__main__":
    main()
