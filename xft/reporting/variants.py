"""Answers the question that variants ask: is each better than its control?

The comparisons of variants with their controls have a Holm correction of their own. They were
chosen before there was a result. The verdict about all models was not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from xft.reporting.comparisons import OF_VARIANTS, SCORES, Quantity, more_evidence, quantities
from xft.reporting.findings import (
    NO_DIFFERENCE,
    SAME,
    could_find,
    figures_text,
    finding_text,
    is_same,
)
from xft.reporting.names import model_text, name_list
from xft.reporting.run_table import NamedModel
from xft.reporting.verdict import HOURS_HINT, NAMED

NOTHING_NEW = "it changes none of the evaluated models"
NOT_COMPARED = "not compared, as no model of both has the same problems or rows with all seeds"
OWN_VALUES = "the configuration's own values"
MOST_ANSWERS = 6  # with their figures
NOT_ASKED = "The variants did not ask which of all models to take:"
ONE_SEED = (
    "With one seed, this compares trained models, and another seed gives other ones. `seeds: [42, "
    "43, 44]` compares the ideas."
)


@dataclass(frozen=True)
class Answer:
    """How a variant differs from its control.

    variant, control: in words.
    findings: for each kind of model, such as `moe_sft`, what was found. The kind is empty if there
        is one alone.
    reasons: sentences with the figures, what the run could find, and what more evidence needs.
    unknown: why there is no finding.
    has_one_seed: whether all comparisons are of models with one seed.
    """

    variant: str
    control: str
    findings: Mapping[str, str]
    reasons: Sequence[str] = ()
    unknown: str = ""
    has_one_seed: bool = False

    @property
    def conclusion(self) -> str:
        """A sentence with all findings."""
        models: dict[str, list[str]] = {}
        for model, finding in self.findings.items():
            models.setdefault(finding, []).append(model)
        parts = [
            f"{finding} ({name_list(names)})" if any(names) else finding
            for finding, names in models.items()
        ]
        return f"{self.variant} against {self.control}: {'; '.join(parts) or self.unknown}."


def find_answers(
    table,
    subjects: Mapping[str, NamedModel],
    controls: Mapping[str, str],
    names: Mapping[str, str],
    plan: str = HOURS_HINT,
) -> list[Answer]:
    """An answer for each variant and what it is compared with. Those without a finding are last.

    table: see `comparison_table`.
    subjects: the models by label.
    controls: of all variants in order, see `RunRow`.
    names: of the variants, in words.
    plan: a sentence on what more evidence costs.
    """
    rows: dict[tuple[str, str], dict[str, dict[Quantity, tuple]]] = {}
    pairs: dict[Quantity, int] = {}
    for quantity, compared in quantities(table, OF_VARIANTS):
        pairs[quantity] = len(compared)
        for row in compared.itertuples():
            first, second = subjects[row.first], subjects[row.second]
            for question in _asked(first, second, controls):
                rows.setdefault(question, {}).setdefault(second.model, {})[quantity] = row
    order = [*controls]
    answers = []
    for variant, control in sorted(rows, key=lambda question: order.index(question[0])):
        answers.append(_answer(variant, control, rows[variant, control], pairs, plan))
    answered = {variant for variant, _ in rows}
    answers += _unanswered(controls, answered, subjects)
    return [_named(answer, names) for answer in answers]


def _named(answer: Answer, names: Mapping[str, str]) -> Answer:
    """An answer with the names of its variants in words."""
    return replace(
        answer,
        variant=names.get(answer.variant, OWN_VALUES),
        control=names.get(answer.control, OWN_VALUES),
    )


def _asked(
    first: NamedModel, second: NamedModel, controls: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """The variants that a pair of models is about, each with what it is compared with.

    The first variant of the second model is compared with its control, or with what stands for it.
    The others that share the model are, if the first model is that of their control too.
    """
    for variant in second.variants:
        control = controls[variant]
        if control in first.variants:
            yield variant, control
        elif variant == second.variants[0]:
            yield variant, first.variants[0]


def _unanswered(
    controls: Mapping[str, str], answered: set[str], subjects: Mapping[str, NamedModel]
) -> Iterator[Answer]:
    """The variants without any comparison, with the reason."""
    for variant, control in controls.items():
        if variant in answered or control == variant or control not in controls:
            continue
        with_variant = [subject for subject in subjects.values() if variant in subject.variants]
        is_shared = all(control in subject.variants for subject in with_variant)
        reason = NOTHING_NEW if is_shared else NOT_COMPARED
        yield Answer(variant, control, {}, unknown=reason)


def _answer(
    variant: str,
    control: str,
    models: Mapping[str, Mapping[Quantity, tuple]],
    pairs: Mapping[Quantity, int],
    plan: str,
) -> Answer:
    findings: dict[str, str] = {}
    reasons: list[str] = []
    rows = [row for of_model in models.values() for row in of_model.values()]
    for kind, of_model in models.items():
        model = model_text(kind)
        findings[model] = finding_text(of_model)
        figures = [
            figures_text(quantity, row, pairs[quantity]) for quantity, row in of_model.items()
        ]
        name = f"{model}: " if model else ""
        reasons.append(f"{name}{' and '.join(figures)}.{could_find(of_model)}")
    for sentence in _evidence(models, pairs.get(SCORES, 0)):
        reasons.append(f"{sentence} {plan}".strip())
    has_one_seed = all(row.seeds_first == row.seeds_second == 1 for row in rows)
    return Answer(variant, control, findings, reasons, has_one_seed=has_one_seed)


def _evidence(models: Mapping[str, Mapping[Quantity, tuple]], pairs: int) -> Iterator[str]:
    """The sentence on more evidence about the least certain score, if there is one."""
    rows = [of_model[SCORES] for of_model in models.values() if SCORES in of_model]
    is_open = [row for row in rows if not row.significant and not is_same(row)]
    if is_open:
        nearest = min(is_open, key=lambda row: row.p_value)
        _, sentence = more_evidence(nearest, pairs)
        if sentence:
            yield sentence


def answer_lines(
    answers: Sequence[Answer], one_seed: str = ONE_SEED
) -> list[tuple[str, Sequence[str]]]:
    """Sentences, each with those that explain it. one_seed: what is said if there is one seed.

    Of many variants, one sentence for each kind of model and finding, which names some variants.
    What was found comes first.
    """
    if len(answers) <= MOST_ANSWERS:
        lines = [(answer.conclusion, answer.reasons) for answer in answers]
    else:
        lines = list(_of_many(answers))
    compared = [answer for answer in answers if answer.findings]
    if compared and all(answer.has_one_seed for answer in compared):
        (conclusion, reasons), *others = lines
        return [(conclusion, [*reasons, one_seed]), *others]
    return lines


def _of_many(answers: Sequence[Answer]) -> Iterator[tuple[str, Sequence[str]]]:
    variants: dict[tuple[str, str], list[str]] = {}
    for answer in answers:
        for model, finding in answer.findings.items():
            question = f"{model} against its control"
            variants.setdefault((question, finding), []).append(answer.variant)
        if answer.unknown:
            variants.setdefault(("Not known", answer.unknown), []).append(answer.variant)
    open_findings = (NO_DIFFERENCE, SAME, NOTHING_NEW, NOT_COMPARED)
    for question, finding in sorted(variants, key=lambda both: both[1] in open_findings):
        names = variants[question, finding]
        others = len(names) - NAMED
        if others > 0:
            names = [*names[:NAMED], f"{others} others"]
        yield f"{question}: {finding} for {name_list(names)}.", ()
