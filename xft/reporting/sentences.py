"""Says in sentences and tables which models differ significantly."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from xft.common.errors import counted
from xft.config.sections import family
from xft.reporting.bootstrap import LEVEL
from xft.reporting.comparisons import LOSS_TESTS, last_rows

BASE, PLAIN = "base", "sft"
NAMED = 4  # models at most in a sentence
SMALL = 2  # percentage points
NEGLIGIBLE = 0.01  # nats per token: 1% of the perplexity
NOT, SMALL_YES = "no", "yes, negligible"
POWER = 0.8  # the share of the cases in which a test is to find a true difference


@dataclass(frozen=True)
class Quantity:
    """What is compared, in words.

    tests: of its rows in the table.
    factor, digits: a value is shown times this factor, with so many digits.
    measured_on: a unit that it is measured on.
    """

    tests: str
    name: str
    factor: int
    digits: int
    measured_on: str

    def number(self, value: float, sign: str = "") -> str:
        text = f"{self.factor * value:{sign}.{self.digits}f}"
        return f"{self.factor * value:{sign}.1g}" if value and not float(text) else text


SCORES = Quantity("plus", "pass@1", 100, 1, "problem")
LOSSES = Quantity(LOSS_TESTS, "validation loss", 1, 4, "row")


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
    """How many pairs of models differ significantly, and what the problems can show.

    rows: from `quantities`. A true difference as large as half of its interval is found in half of
    the cases.
    """
    significance, pairs = _significance(quantity, rows), counted(len(rows), "pair")
    count, fewest = int(rows["problems"].max()), fewest_problems(len(rows))
    if count < fewest:
        units = f"With {counted(count, quantity.measured_on)} and {pairs} of models"
        yield f"{units}, no difference in {quantity.name} can be significant."
        return
    differ, small = len(significance) - significance.count(NOT), significance.count(SMALL_YES)
    negligible = f", {small} negligibly: by less than {NEGLIGIBLE}, 1% of the perplexity"
    verb = "differs" if differ == 1 else "differ"
    yield (
        f"Of {pairs} of models, {differ} {verb} significantly in {quantity.name}"
        f"{negligible if small else ''}."
    )
    if quantity is SCORES:
        points = 100 * max(fewest / count, float((rows["high"] - rows["low"]).median()) / 2)
        yield (
            f"With {count} problems, a true difference of {points:.1f} percentage points is "
            "significant in at most half of the cases."
        )


def _significance(quantity: Quantity, rows) -> list[str]:
    """Whether each difference is significant, in words."""
    small = (quantity is LOSSES) & (rows["difference"].abs() < NEGLIGIBLE)
    return [
        NOT if not significant else SMALL_YES if is_small else "yes"
        for significant, is_small in zip(rows["significant"], small, strict=True)
    ]


def name_list(names: Sequence[str]) -> str:
    *others, last = names or [""]
    return f"{', '.join(others)} and {last}" if others else last


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
    texts["significant"] = _significance(quantity, rows)
    return texts


def p_text(p_value: float) -> str:
    """A p-value as text: `= 0.012`, or `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
