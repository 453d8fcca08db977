"""Answers the question that variants ask: is each better than its control?

The comparisons of variants with their controls have a Holm correction of their own. They were
chosen before there was a result. The verdict about all models was not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from statistics import NormalDist

from xft.reporting.comparisons import (
    LOSSES,
    NEGLIGIBLE,
    OF_VARIANTS,
    POWER,
    SCORES,
    Quantity,
    difference_in_words,
    errors_of_power,
    fewest_problems,
    more_evidence,
    quantities,
)
from xft.reporting.run_table import Subject
from xft.reporting.statistics import LEVEL
from xft.reporting.verdict import NAMED, PLAN, name_list

NO_DIFFERENCE = "no difference was found"
OWN_VALUES = "the configuration's own values"
MOST_ANSWERS = 6  # with their figures
NOT_ASKED = "The variants did not ask which of all models to take:"
ONE_SEED = (
    "With one seed, this compares two trained models, and another seed gives other ones. `seeds: "
    "[42, 43, 44]` compares the ideas."
)


@dataclass(frozen=True)
class Answer:
    """How a variant differs from its control.

    variant, control: in words.
    findings: for each kind of model, such as `moe_sft`, what was found.
    reasons: sentences with the figures, what the run could find, and what more evidence needs.
    """

    variant: str
    control: str
    findings: Mapping[str, str]
    reasons: Sequence[str]

    @property
    def conclusion(self) -> str:
        """A sentence with all findings."""
        models: dict[str, list[str]] = {}
        for model, finding in self.findings.items():
            models.setdefault(finding, []).append(model)
        parts = [f"{finding} ({name_list(names)})" for finding, names in models.items()]
        return f"{self.variant} against {self.control}: {'; '.join(parts)}."


def find_answers(table, subjects: Mapping[str, Subject]) -> list[Answer]:
    """An answer for each variant that has a control, in the order of the table.

    table: see `comparison_table`.
    subjects: the models of the table by label.
    """
    rows: dict[str, dict[str, dict[Quantity, tuple]]] = {}
    pairs: dict[Quantity, int] = {}
    for quantity, compared in quantities(table, OF_VARIANTS):
        pairs[quantity] = len(compared)
        for row in compared.itertuples():
            subject = subjects[row.second]
            of_variant = rows.setdefault(subject.variant, {})
            of_variant.setdefault(subject.model, {})[quantity] = row
    return [_answer(variant, models, pairs, subjects) for variant, models in rows.items()]


def _answer(
    variant: str,
    models: Mapping[str, Mapping[Quantity, tuple]],
    pairs: Mapping[Quantity, int],
    subjects: Mapping[str, Subject],
) -> Answer:
    findings, reasons = {}, []
    rows = [row for of_model in models.values() for row in of_model.values()]
    for model, of_model in models.items():
        findings[model] = _finding(of_model)
        figures = [difference_in_words(q, row, pairs[q]) for q, row in of_model.items()]
        reasons.append(f"{model}: {' and '.join(figures)}.{_could_find(of_model, pairs)}")
    reasons += _evidence(models, pairs.get(SCORES, 0))
    if all(row.seeds_first == row.seeds_second == 1 for row in rows):
        reasons.append(ONE_SEED)
    control = subjects[rows[0].first].variant or OWN_VALUES
    return Answer(variant, control, findings, reasons)


def _finding(rows: Mapping[Quantity, tuple]) -> str:
    """What the differences of a model say."""
    better, worse = [], []
    for quantity, row in rows.items():
        if row.significant:
            is_negligible = quantity is LOSSES and abs(row.difference) < NEGLIGIBLE
            name = f"{quantity.name}, negligibly" if is_negligible else quantity.name
            found = better if quantity.sign * row.difference > 0 else worse
            found.append(name)
    parts = [f"better in {name_list(better)}"] if better else []
    parts += [f"worse in {name_list(worse)}"] if worse else []
    return ", but ".join(parts) or NO_DIFFERENCE


def _could_find(rows: Mapping[Quantity, tuple], pairs: Mapping[Quantity, int]) -> str:
    """How small a true difference this run finds, if a difference is not significant.

    The standard error, also of the seeds, is that of the interval.
    """
    sizes = []
    for quantity, row in rows.items():
        if row.significant or isnan(row.low):
            continue
        error = (row.high - row.low) / 2 / NormalDist().inv_cdf(1 - LEVEL / 2)
        size = errors_of_power(pairs[quantity]) * error
        if quantity is SCORES:
            size = max(size, fewest_problems(pairs[quantity]) / row.problems)
        sizes.append(f"{quantity.number(size)} {quantity.unit}")
    if not sizes:
        return ""
    found = " and ".join(sizes)
    return f" This run finds true differences of about {found} in {POWER:.0%} of the cases."


def _evidence(models: Mapping[str, Mapping[Quantity, tuple]], pairs: int) -> Iterator[str]:
    """What more evidence about the least certain score needs."""
    rows = [of_model[SCORES] for of_model in models.values() if SCORES in of_model]
    is_open = [row for row in rows if not row.significant]
    if is_open:
        nearest = min(is_open, key=lambda row: row.p_value)
        needed, sentence = more_evidence(nearest, pairs)
        if needed:
            yield f"{sentence} {PLAN}"


def answer_lines(answers: Sequence[Answer]) -> Iterator[tuple[str, Sequence[str]]]:
    """Sentences, each with those that explain it.

    Of many variants, one sentence for each kind of model and finding, which names some variants.
    """
    if len(answers) <= MOST_ANSWERS:
        for answer in answers:
            yield answer.conclusion, answer.reasons
        return
    variants: dict[tuple[str, str], list[str]] = {}
    for answer in answers:
        for model, finding in answer.findings.items():
            variants.setdefault((model, finding), []).append(answer.variant)
    for (model, finding), names in variants.items():
        others = len(names) - NAMED
        shown = names if others <= 0 else [*names[:NAMED], f"{others} others"]
        yield f"{model} against its control: {finding} for {name_list(shown)}.", ()
