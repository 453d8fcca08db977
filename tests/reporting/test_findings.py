"""What a summary finds, as values and whole: comparisons, best values, answers and the verdict, of
two data sets and validation rows, three questions and families of unequal size.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import isinf, isnan

import numpy as np
import pytest
from evaluations import write_table
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from report_folders import Runs

from xft.reporting.comparisons import (
    LOSSES,
    OF_MODELS,
    OF_SWEEP,
    OF_VARIANTS,
    POOLED,
    SCORES,
    comparison_table,
    more_evidence,
    quantities,
)
from xft.reporting.run_table import LOSS_TESTS, NamedModel, Values, read_runs
from xft.reporting.summaries import Summary
from xft.reporting.swept import Line
from xft.reporting.variants import NO_DIFFERENCE, Answer

RATE = "moe_sft.learning_rate"
SIZES = {"a": 60, "b": 40}  # of the data sets
# The problems of a and of b that a model solves with the first seed, and its loss.
SHARED = {"base": (10, 8, 1.9), "sft": (20, 10, 1.5)}
TUNED = {
    ("", 1e-4): {"moe_sft": (21, 11, 1.40), "dense/lam~0.75": (17, 9, 1.60)},
    ("", 5e-4): {"moe_sft": (35, 17, 1.25), "dense/lam~0.75": (22, 12, 1.45)},
    ("", 1e-3): {"moe_sft": (29, 15, 1.29), "dense/lam~0.75": (24, 14, 1.40)},
    ("late", 1e-4): {"moe_sft": (31, 11, 1.42), "dense/lam~0.75": (21, 12, 1.52)},
    ("late", 1e-3): {"moe_sft": (31, 15, 1.22), "dense/lam~0.75": (26, 16, 1.403)},
}
FAMILIES = {OF_VARIANTS: 4, OF_SWEEP: 8, OF_MODELS: 26}  # numbers of pairs
# By quantity and method: the best values, the worse ones, the open ones, and the edge.
BEST = {
    (LOSSES.name, "moe_sft"): (["5e-4"], ["1e-3", "1e-4"], [], ""),
    (LOSSES.name, "dense 0.75"): (["1e-3"], ["5e-4", "1e-4"], [], "highest"),
    (LOSSES.name, "moe_sft (late)"): (["1e-3"], ["1e-4"], [], "highest"),
    (LOSSES.name, "dense 0.75 (late)"): (["1e-3"], ["1e-4"], [], "highest"),
    (SCORES.name, "moe_sft"): (["5e-4"], ["1e-3", "1e-4"], [], ""),
    (SCORES.name, "dense 0.75"): (["1e-3"], ["1e-4"], ["5e-4"], "highest"),
    (SCORES.name, "moe_sft (late)"): (["1e-3"], [], ["1e-4"], "highest"),
    (SCORES.name, "dense 0.75 (late)"): (["1e-3"], ["1e-4"], [], "highest"),
}
ANSWERS = {
    ("late, lr 1e-4", "lr 1e-4"): {
        "moe_sft": "better in pass@1, but worse in validation loss",
        "dense 0.75": "better in pass@1 and validation loss",
    },
    ("late, lr 1e-3", "lr 1e-3"): {
        "moe_sft": "better in validation loss",
        "dense 0.75": NO_DIFFERENCE,
    },
}
TURNED = {"better": "worse", "worse": "better"}


def losses_of(model: str, mean: float, seed: int) -> np.ndarray:
    """Losses of rows. A few tell more than all others, so intervals are not symmetrical."""
    rows = np.random.default_rng(3)
    own = np.random.default_rng([*f"{model} {seed}".encode()])
    skewed = rows.gamma(0.5, 1, 60)
    return rows.normal(1, 0.3, 60) + mean * skewed + own.normal(0, 0.02, 60)


def run_name(variant: str, rate: float) -> str:
    return ", ".join(filter(None, [variant, f"learning_rate={rate}"]))


def add_seed(runs: Runs, seed: int, dataset: str) -> None:
    """Add the evaluations of all runs with a seed. The runs share the base and the plain model."""
    place = [*SIZES].index(dataset)
    for (variant, rate), tuned in TUNED.items():
        run = run_name(variant, rate)
        # A value of the sweep alone is compared with the first one.
        control = run_name("", rate if variant else 1e-4)
        columns = {"swept": json.dumps({RATE: rate}), "plain_variant": variant}
        for model, solved in (SHARED | tuned).items():
            owner = "" if model in SHARED else run
            more = (seed - 42) * (model != "base")
            runs.add(
                model,
                solved[place] + more,
                variant=owner,
                seed=seed,
                dataset=dataset,
                count=SIZES[dataset],
                families=[dataset],
                losses=losses_of(model + owner, solved[2], seed),
                **columns,
            )
            runs.rows[-1] |= {"variant": run, "control": control}


@pytest.fixture(scope="module", params=[1, 2], ids=["one seed", "two seeds"])
def runs(request, tmp_path_factory) -> Runs:
    """Variants with a sweep, of which one lacks a value."""
    runs = Runs(tmp_path_factory.mktemp("results"))
    for seed in range(42, 42 + request.param):
        for dataset in SIZES:
            add_seed(runs, seed, dataset)
    return runs


@pytest.fixture(scope="module")
def found(runs) -> Summary:
    return summary_of(runs, runs.rows)


def summary_of(runs: Runs, rows: Sequence[Mapping]) -> Summary:
    return Summary(read_runs(write_table(runs.root / "runs.csv", rows)))


def said(line: Line) -> tuple:
    """What is said of the best value."""
    return [point.text for point in line.best], line.worse, line.open, line.edge


def by_method(lines: Sequence[Line]) -> dict[tuple, Line]:
    return {(line.quantity.name, line.method): line for line in lines}


# The table of cases


def test_the_best_value_of_each_method_is_told_with_its_differences_from_the_others(found):
    """Each difference is that of another value from the best one, and lies in its interval."""
    lines = by_method(found.swept)
    assert {name: said(line) for name, line in lines.items()} == BEST
    for line in lines.values():
        assert line.pairs == FAMILIES[OF_SWEEP]
        best = line.best[0]
        others = {point.label: point for point in line.points if point is not best}
        assert line.rows.keys() == others.keys()
        for label, row in line.rows.items():
            assert (row.first, row.second) == (best.label, label)
            difference = others[label].figure.mean - best.figure.mean
            assert row.difference == pytest.approx(difference)
            assert row.low <= row.difference <= row.high


def test_each_variant_is_answered_for_each_of_its_models(found):
    answers = {(answer.variant, answer.control): answer.findings for answer in found.answers}
    assert answers == ANSWERS
    assert found.verdict.pair == ("sft", "moe_sft, lr 5e-4")


def test_an_answer_says_what_is_findable_where_nothing_was_found_and_what_would_decide(found):
    """The amounts without a sign are the differences that could be found. More evidence is about
    the score that is the nearest to significance.
    """
    compared = dict(quantities(found.comparisons, OF_VARIANTS))
    for answer in found.answers:
        setting = answer.variant.removeprefix("late, ")
        rows = {
            quantity: [row for row in of.itertuples() if setting in row.second]
            for quantity, of in compared.items()
        }
        for place, model in enumerate(answer.findings):
            told = re.findall(r"(?<![+\-\d.])[\d.]+ (?:percent|nats)", answer.reasons[place])
            findable = []
            for quantity, of_quantity in rows.items():
                row = of_quantity[place]
                assert row.second.startswith(model)
                if not row.significant:
                    findable.append(f"{quantity.number(row.findable)} {quantity.unit}")
            assert len(told) == len(findable)
            assert all(map(str.startswith, findable, told))
        open_scores = [row for row in rows[SCORES] if not row.significant]
        evidence = answer.reasons[len(answer.findings) :]
        if open_scores:
            nearest = min(open_scores, key=lambda row: row.p_value)
            _, expected = more_evidence(nearest, FAMILIES[OF_VARIANTS])
            assert len(evidence) == 1 and evidence[0].startswith(expected)
        else:
            assert evidence == []


def test_each_family_is_corrected_alone(found):
    """Holm's correction as it is defined. A family is of one question, one quantity, and one data
    set or all of them together.
    """
    table = found.comparisons
    sizes = []
    for (tests, dataset, question), rows in table.groupby(["tests", "dataset", "question"]):
        sizes.append((tests, dataset, question, len(rows)))
        assert [*rows["significant"]] == holm([*rows["p_value"]])
    sets = [("plus", name) for name in (*SIZES, POOLED)] + [(LOSS_TESTS, "validation rows")]
    sets += [("base", name) for _, name in sets[:3]]
    expected = [(*of_set, *family) for of_set in sets for family in FAMILIES.items()]
    assert sorted(sizes) == sorted(expected)
    for row in table.itertuples():
        assert row.is_overall == (row.dataset not in SIZES)
        assert isnan(row.findable) == (not row.is_overall)
        is_open = row.is_overall and row.tests == "plus" and not row.significant
        varies = max(row.seeds_first, row.seeds_second) > 1
        assert isnan(row.seeds_needed) == (not (is_open and varies and row.question != OF_SWEEP))


def holm(p_values: list[float]) -> list[bool]:
    """Step down from the smallest p-value, until one of those that are left is too large."""
    significant = [False] * len(p_values)
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[place] >= 0.05 / (len(p_values) - step):
            break
        significant[place] = True
    return significant


@pytest.mark.parametrize(("models", "fewest"), [(2, 6), (4, 8)])
@pytest.mark.parametrize("tests", [SCORES.tests, LOSS_TESTS])
def test_nothing_can_be_found_on_fewer_units_than_can_be_significant(tests, models, fewest):
    """One pair, and six pairs."""
    numbers = np.random.default_rng(1).random((models, fewest)).round(2)
    for units, is_known in ((fewest - 1, False), (fewest, True)):
        values = [
            Values(NamedModel(f"m{n}"), None, "d", tests, ("d", *range(units)), [*own[:units]])
            for n, own in enumerate(numbers)
        ]
        table = comparison_table(values, lambda subjects: combinations(subjects, 2))
        assert [not isinf(size) for size in table["findable"]] == [is_known] * len(table)
        assert is_known or not table["significant"].any()


# Properties


def findings(summary: Summary) -> tuple[dict, dict]:
    """What was found: facts, and numbers. A pair of models is named by the alphabet."""
    facts, numbers = {}, {}
    for row in summary.comparisons.itertuples():
        is_turned = row.first > row.second
        names = tuple(sorted((row.first, row.second)))
        sign = -1 if is_turned else 1
        ends = sorted((sign * row.low, sign * row.high))
        seeds = (row.seeds_first, row.seeds_second)[::sign]
        key = *names, row.dataset, row.tests
        facts[key] = row.question, row.significant, row.is_overall, row.problems, seeds
        measured = [sign * row.difference, *ends, row.p_value, row.error]
        for place, number in enumerate([*measured, row.findable, row.seeds_needed]):
            numbers[*key, place] = number
    for name, line in by_method(summary.swept).items():
        values = [point.text for point in line.points]
        facts[name] = line.key, line.others, line.pairs, line.lacking, values, said(line)
        for label, row in line.rows.items():
            for place, number in enumerate([row.difference, row.low, row.high, row.p_value]):
                numbers[*name, label, place] = number
    for answer in summary.answers:
        facts[answer.variant] = replace(answer, reasons=sorted(answer.reasons))
    verdict = summary.verdict
    facts["verdict"] = replace(verdict, datasets={*verdict.datasets})
    return facts, numbers


@settings(max_examples=5, phases=[Phase.generate])
@given(data=st.data())
def test_the_order_of_models_values_seeds_and_data_sets_decides_nothing(found, runs, data):
    """Neither in the table of runs nor in that of comparisons."""
    order = data.draw(st.permutations(range(len(runs.rows))))
    summary = summary_of(runs, [runs.rows[place] for place in order])
    summary.comparisons = summary.comparisons.sample(frac=1, random_state=order[0])
    facts, numbers = findings(summary)
    expected_facts, expected_numbers = findings(found)
    assert facts == expected_facts
    assert numbers == pytest.approx(expected_numbers, rel=1e-9, abs=1e-9, nan_ok=True)


def test_a_control_that_is_exchanged_with_its_variant_turns_the_findings(found, runs):
    rows = []
    for row in runs.rows:
        rate = json.loads(row["swept"])[RATE]
        is_paired = ("late", rate) in TUNED
        has_variant = row["plain_variant"] == "late"
        is_compared = is_paired and not has_variant
        control = run_name("late", rate) if is_compared else run_name(row["plain_variant"], 1e-4)
        rows.append(row | {"control": control})
    summary = summary_of(runs, rows)
    turned = {(answer.control, answer.variant): answer for answer in summary.answers}
    assert {key: parts_of(answer) for key, answer in turned.items()} == {
        (answer.variant, answer.control): parts_of(answer, is_turned=True)
        for answer in found.answers
    }


def parts_of(answer: Answer, is_turned: bool = False) -> dict[str, set[str]]:
    """The parts of the findings. is_turned: those of the control against the variant."""
    parts = {}
    for model, finding in answer.findings.items():
        if is_turned:
            finding = re.sub("better|worse", lambda word: TURNED[word[0]], finding)
        parts[model] = {*finding.split(", but ")}
    return parts
