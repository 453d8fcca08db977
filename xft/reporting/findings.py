"""What is found of two models, in words: the figures, a finding, and what the run could find."""

from collections.abc import Mapping
from math import isinf, isnan

from xft.common.errors import counted
from xft.reporting.comparisons import LOSSES, NEGLIGIBLE, SCORES, Quantity, difference_text
from xft.reporting.names import name_list
from xft.reporting.statistics import POWER

NO_DIFFERENCE = "no difference was found"
SAME = "the same results"


def is_same(row: tuple) -> bool:
    """Whether two models have the same value on each unit."""
    return row.difference == 0 and isnan(row.low)


def figures_text(quantity: Quantity, row: tuple, pairs: int) -> str:
    if is_same(row):
        return f"the same {quantity.name} on all {counted(row.problems, quantity.measured_on)}"
    return difference_text(quantity, row, pairs)


def finding_text(rows: Mapping[Quantity, tuple]) -> str:
    """The finding about a model, in words. rows: its comparisons."""
    if all(is_same(row) for row in rows.values()):
        return SAME
    better = []
    worse = []
    for quantity, row in rows.items():
        if not row.significant:
            continue
        is_negligible = quantity is LOSSES and abs(row.difference) < NEGLIGIBLE
        name = f"{quantity.name}, negligibly" if is_negligible else quantity.name
        if quantity.sign * row.difference > 0:
            better.append(name)
        else:
            worse.append(name)
    parts = []
    if better:
        parts.append(f"better in {name_list(better)}")
    if worse:
        parts.append(f"worse in {name_list(worse)}")
    return ", but ".join(parts) or NO_DIFFERENCE


def could_find(rows: Mapping[Quantity, tuple]) -> str:
    """How small a true difference this run finds, if a difference is not significant."""
    sizes = []
    impossible = []
    for quantity, row in rows.items():
        if row.significant or isnan(row.low):
            continue
        if isinf(row.findable):
            impossible.append(quantity.name)
        else:
            sizes.append(f"{quantity.number(row.findable)} {quantity.unit}")
    text = ""
    if sizes:
        least = " and ".join(sizes)
        text += f" This run finds true differences of about {least} in {POWER:.0%} of the cases."
    if impossible:
        units = f"{SCORES.measured_on}s"
        names = name_list(impossible)
        text += f" It has too few seeds or {units} to find a difference in {names}."
    return text
