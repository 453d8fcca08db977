"""Says in sentences and tables which models differ significantly."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from xft.common.errors import counted
from xft.config.models import family
from xft.reporting.bootstrap import LEVEL
from xft.reporting.comparisons import LOSS, POOLED, last_rows

BASE, PLAIN = "base", "sft"
NAMED = 4  # models at most in a sentence
MOST_PAIRS = 40  # in sentences: of more, only those with the base and with plain fine-tuning
SMALL = 2  # percentage points
NEGLIGIBLE = 0.01  # nats per token: 1% of the perplexity
POWER = 0.8  # the share of the cases in which a test is to find a true difference


@dataclass(frozen=True)
class Quantity:
    """What is compared, in words.

    tests: of its rows in the table. factor: from the table's unit to the shown one. units: of a
    lower and of a higher value. measured_on: one of what it is measured on.
    """

    tests: str
    name: str
    verb: str
    factor: int
    digits: int
    units: tuple[str, str]
    measured_on: str

    def number(self, value: float, sign: str = "") -> str:
        text = f"{self.factor * value:{sign}.{self.digits}f}"
        return f"{self.factor * value:{sign}.1g}" if value and not float(text) else text


SCORES = Quantity(
    tests="plus",
    name="pass@1",
    verb="solves",
    factor=100,
    digits=1,
    units=("percentage points less", "percentage points more"),
    measured_on="problem",
)
LOSSES = Quantity(
    tests=LOSS,
    name="validation loss",
    verb="has a validation loss",
    factor=1,
    digits=4,
    units=("nats per token lower", "nats per token higher"),
    measured_on="row",
)


def problems_needed(problems: int, error: float, pairs: int, difference: float) -> float:
    """How many problems find a true difference in `POWER` of the cases.

    n ((z(1 - 0.025 / pairs) + z(POWER)) error / difference)^2, with Bonferroni's correction for all
    pairs. If two models differ on k problems, p is at least 2 / 2^k.

    problems: n.
    error: the standard error of a difference with so many problems.
    difference: of the shares of solved problems, not 0.
    """
    normal = NormalDist().inv_cdf
    deviations = normal(1 - LEVEL / 2 / pairs) + normal(POWER)
    needed = problems * (deviations * error / difference) ** 2
    return float(f"{max(needed, fewest_problems(pairs) / abs(difference)):.2g}")


def fewest_problems(pairs: int) -> int:
    """On how many problems two models must differ, so that the difference can be significant."""
    return math.floor(math.log2(2 * pairs / LEVEL)) + 1


def label_family(label: str) -> str:
    """`sft` of `sft (sft.learning_rate 2e-05)`."""
    return family(label.partition(" ")[0])


def quantities(table) -> Iterator[tuple[Quantity, object]]:
    """What was compared, with the last row of each pair of models."""
    for quantity in (SCORES, LOSSES):
        rows = last_rows(table[table["tests"] == quantity.tests])
        if len(rows):
            yield quantity, rows


def sentences(quantity: Quantity, rows) -> Iterator[str]:
    """Which models differ significantly, and what the problems can show.

    rows: from `quantities`. A difference is significant if its p-value is below 5% after Holm's
    correction for all pairs. Scores are by original + extra tests.
    """
    if len(rows) > MOST_PAIRS:
        is_named = rows["first"].map(label_family).isin((BASE, PLAIN))
        found = int(rows[~is_named]["significant"].sum())
        yield (
            f"Of {(~is_named).sum()} pairs of variants, {found} differ significantly in "
            f"{quantity.name}: comparisons.csv."
        )
        rows = rows[is_named]
    rows = rows.assign(
        unit=[quantity.units[value > 0] for value in rows["difference"]],
        is_negligible=(quantity is LOSSES) & (rows["difference"].abs() < NEGLIGIBLE),
    )
    where = ["first", "dataset", "problems", "unit", "is_negligible"]
    for _, group in rows[rows["significant"]].groupby(where, sort=False):
        yield _differences(quantity, group)
    same, end = rows[~rows["significant"]], f"in {quantity.name}."
    alike = list(same[same["first"] == BASE]["second"])
    if alike:
        do = "do" if len(alike) > 1 else "does"
        models = name_list(alike) if len(alike) <= NAMED else f"{len(alike)} models"
        yield f"{models} {do} not differ significantly from base {end}"
    others = same[same["first"] != BASE]
    if len(others) == 1:
        (pair,) = others.itertuples()
        yield f"{pair.second} does not differ significantly from {pair.first} {end}"
    elif len(others):
        is_all = len(others) == (rows["first"] != BASE).sum()
        models = "The tuned models" if is_all else f"{len(others)} other pairs of tuned models"
        yield f"{models} do not differ significantly {end}"
    yield from _power(quantity, rows)


def _differences(quantity: Quantity, rows) -> str:
    """A sentence about models that differ significantly from another one, the largest first."""
    rows = rows.sort_values("difference", key=abs, ascending=False, kind="stable")
    parts = []
    for row in rows[:NAMED].itertuples():
        ends = [quantity.number(abs(end)) for end in sorted((row.low, row.high), key=abs)]
        verb, interval = ("", "") if parts else (f" {quantity.verb}", "95% interval ")
        interval = "no interval" if math.isnan(row.low) else f"{interval}{' to '.join(ends)}"
        parts.append(f"{row.second}{verb} {quantity.number(abs(row.difference))} ({interval})")
    seeds = max(row.seeds_first, row.seeds_second)
    units = counted(row.problems, quantity.measured_on) + (f", {seeds} seeds" if seeds > 1 else "")
    dataset = "all data sets" if row.dataset == POOLED else row.dataset
    place = f"on {dataset} ({units})" if quantity is SCORES else f"({units})"
    more = max(len(rows) - NAMED, 0)
    do = "differs" if more == 1 else "differ"
    others = f", and {counted(more, 'other model')} {do} less" if more else ""
    p_value = p_text(rows["p_value"].max())
    negligible = f" But less than {NEGLIGIBLE}, 1% of the perplexity, is negligible."
    return (
        f"{name_list(parts)} {row.unit} than {row.first} {place}{others}: significant, "
        f"p {p_value}.{negligible if row.is_negligible else ''}"
    )


def name_list(names: Sequence[str]) -> str:
    *others, last = names or [""]
    return f"{', '.join(others)} and {last}" if others else last


def _power(quantity: Quantity, rows) -> Iterator[str]:
    """What the number of problems or rows can show.

    A true difference as large as half of its interval is found in half of the cases.
    """
    count, fewest = int(rows["problems"].max()), fewest_problems(len(rows))
    if count < fewest:
        about = f"{counted(count, quantity.measured_on)} and {counted(len(rows), 'pair')} of models"
        yield f"With {about}, no difference in {quantity.name} can be significant."
    elif quantity is SCORES:
        points = 100 * max(fewest / count, float((rows["high"] - rows["low"]).median()) / 2)
        yield (
            f"With {count} problems, a true difference of {points:.1f} percentage points is "
            "significant in at most half of the cases."
        )


def readable(quantity: Quantity, rows):
    """Rows of the table as texts. The second model of a row comes first."""
    texts = rows[["second", "first"]].set_axis(["model", "against"], axis=1)
    of_losses = quantity is LOSSES
    texts["rows" if of_losses else "dataset"] = rows["problems" if of_losses else "dataset"]
    if (rows[["seeds_first", "seeds_second"]] > 1).any(axis=None):
        seeds = zip(rows["seeds_second"], rows["seeds_first"], strict=True)
        texts["seeds"] = [f"{model}, {against}" for model, against in seeds]
    texts["difference"] = [quantity.number(value, "+") for value in rows["difference"]]
    texts["95% interval"] = [
        "-" if math.isnan(low) else f"{quantity.number(low, '+')} to {quantity.number(high, '+')}"
        for low, high in zip(rows["low"], rows["high"], strict=True)
    ]
    texts["p"] = [p_text(value).removeprefix("= ") for value in rows["p_value"]]
    texts["significant"] = ["yes" if significant else "no" for significant in rows["significant"]]
    return texts


def p_text(p_value: float) -> str:
    """A p-value as text: `= 0.012`, or `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
