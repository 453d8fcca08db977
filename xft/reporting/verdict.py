"""Says which models differ significantly: in sentences, and in tables."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from xft.common.errors import counted
from xft.config.models import family
from xft.reporting.bootstrap import CONFIDENCE
from xft.reporting.comparisons import LOSS, POOLED, last_rows

BASE, PLAIN = "base", "sft"
NAMED = 4  # models at most in a sentence
MOST_PAIRS = 40  # in sentences: of more, only those with the base and with plain fine-tuning
SMALL = 2  # percentage points
FOUND = 0.8  # of the cases in which evidence is to show a true difference


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


def choose(table):
    """The row of the best score against plain fine-tuning, a named tuple; None without such a row.

    Take this model if it is significantly better, or else plain fine-tuning. rivals: the number of
    such rows. pairs: of all compared pairs.
    """
    scores = last_rows(table[table["tests"] == SCORES.tests])
    rivals = scores[scores["first"].map(_family) == PLAIN].sort_values("difference", kind="stable")
    return next(rivals[-1:].assign(rivals=len(rivals), pairs=len(scores)).itertuples(), None)


def against_base(table, model: str):
    """The row of a model's score against the base's, a named tuple; None without such a row."""
    scores = last_rows(table[(table["tests"] == SCORES.tests) & (table["first"] == BASE)])
    return next(scores[scores["second"] == model].itertuples(), None)


def problems_needed(problems: int, error: float, pairs: int) -> float:
    """How many problems find a true difference of `SMALL` points in `FOUND` of the cases.

    error: the standard error of a difference with so many problems. The correction asks for
    5% / pairs. If two models differ on k problems, p is at least 2 / 2^k.
    """
    size, normal = SMALL / SCORES.factor, NormalDist().inv_cdf
    deviations = normal(1 - (1 - CONFIDENCE) / 2 / pairs) + normal(FOUND)
    needed = max(problems * (deviations * error / size) ** 2, _fewest(pairs) / size)
    return float(f"{needed:.2g}")


def _fewest(pairs: int) -> int:
    """On how many problems two models must differ, so that the difference can be significant."""
    return math.floor(math.log2(2 * pairs / (1 - CONFIDENCE))) + 1


def _family(label: str) -> str:
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
        is_named = rows["first"].map(_family).isin((BASE, PLAIN))
        found = int(rows[~is_named]["significant"].sum())
        yield (
            f"Of {(~is_named).sum()} pairs of variants, {found} differ significantly in "
            f"{quantity.name}: comparisons.csv."
        )
        rows = rows[is_named]
    rows = rows.assign(unit=[quantity.units[value > 0] for value in rows["difference"]])
    where = ["first", "dataset", "problems", "unit"]
    for _, group in rows[rows["significant"]].groupby(where, sort=False):
        yield _differences(quantity, group)
    same, end = rows[~rows["significant"]], f"in {quantity.name}."
    alike = list(same[same["first"] == BASE]["second"])
    if alike:
        do = "do" if len(alike) > 1 else "does"
        models = _listed(alike) if len(alike) <= NAMED else f"{len(alike)} models"
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
        low, size, high = sorted(map(abs, (row.low, row.difference, row.high)))
        low, size, high = map(quantity.number, (low, size, high))
        verb, interval = ("", "") if parts else (f" {quantity.verb}", "95% interval ")
        parts.append(f"{row.second}{verb} {size} ({interval}{low} to {high})")
    seeds = max(row.seeds_first, row.seeds_second)
    units = counted(row.problems, quantity.measured_on) + (f", {seeds} seeds" if seeds > 1 else "")
    dataset = "all data sets" if row.dataset == POOLED else row.dataset
    place = f"on {dataset} ({units})" if quantity is SCORES else f"({units})"
    more = max(len(rows) - NAMED, 0)
    do = "differs" if more == 1 else "differ"
    others = f", and {counted(more, 'other model')} {do} less" if more else ""
    p_value = p_text(rows["p_value"].max())
    return (
        f"{_listed(parts)} {row.unit} than {row.first} {place}{others}: significant, p {p_value}."
    )


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _power(quantity: Quantity, rows) -> Iterator[str]:
    """What the number of problems or rows can show.

    A true difference as large as half of its interval is found in half of the cases.
    """
    count, fewest = int(rows["problems"].max()), _fewest(len(rows))
    if count < fewest:
        about = f"{counted(count, quantity.measured_on)} and {counted(len(rows), 'pair')} of models"
        yield f"With {about}, no difference in {quantity.name} can be significant."
    elif quantity is SCORES:
        needed = problems_needed(count, float(rows["error"].median()), len(rows))
        points = 100 * max(fewest / count, float((rows["high"] - rows["low"]).median()) / 2)
        yield (
            f"With {count} problems, a true difference of {points:.1f} percentage points is "
            "significant in at most half of the cases."
            + f" One of {SMALL} points is in {FOUND:.0%} of them with about {needed:,.0f} problems."
            * (needed > count and PLAIN not in set(rows["first"].map(_family)))
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
