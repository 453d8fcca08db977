"""The decision of a run: a case for each sentence in `verdict.py`."""

import re
from math import inf

import numpy as np
import pytest
from scipy.stats import norm

from xft.evaluation.result import OUTCOMES
from xft.reporting.comparisons import Values, comparison_table
from xft.reporting.runs import Subject
from xft.reporting.sentences import problems_needed
from xft.reporting.verdict import Candidate, decide


def verdict(solved, count=140, losses=None, base_tests=None, seeds=1, sets=None, outcomes=None):
    """The verdict on models that solve the first problems, one more with each further seed.

    solved: their numbers, on original + extra tests. base_tests: on the original tests, if others.
    outcomes: of the answers that do not pass, by model.
    """
    values, candidates = [], []
    for label, number in solved.items():
        model, _, variant = label.partition(" ")
        variants = ("", "(b)") if model == "base" else (variant,)
        subject = Subject(model, variants, variant.strip("()"))
        for seed in range(seeds):
            for tests, numbers in (("base", base_tests or solved), ("plus", solved)):
                right = [float(n < numbers[label] + seed * (number > 0)) for n in range(count)]
                units = ("set", *range(count))
                values.append(Values(subject, seed or None, "d", tests, units, right))
        passed = seeds * number + sum(range(seeds)) * (number > 0)
        others = (outcomes or {}).get(label, {"failed": seeds * count - passed})
        counts = dict.fromkeys(OUTCOMES, 0) | {"passed": passed} | others
        candidates.append(Candidate(label, counts, (losses or {}).get(label, inf), seeds))
    return decide(comparison_table(values), candidates, sets or {"d": 0})


HALF = {"base": 40, "sft": 40, "dense/lam~0.5": 60, "dense/lam~0.75": 60}


WITHOUT_BASE = "Not decided: base was not evaluated, so nothing says whether fine-tuning helps."
CASES = [  # the models with their solved problems, the decision, and how the reasons begin
    (
        {"base": 0, "sft": 0, "moe_sft": 0},
        "Nothing was measured: all 3 models solve 0 of 140 problems, so pass@1 says nothing here.",
        "The problems are too hard for these models: take other ones.",
    ),
    (
        {"base": 140, "sft": 140},
        "Nothing was measured: both models solve all 140 problems, so pass@1 says nothing here.",
        "The problems are too easy",
    ),
    (
        {"sft": 40, "moe_sft": 43},
        WITHOUT_BASE,
        r"moe_sft against sft: \+2.1 percentage points \(95% interval \+0.0 to \+5.0; p = 0.250,",
        "Next: add base",
        "More evidence: about ",
    ),
    ({"moe_sft": 40, "dense/lam~0.75": 43}, WITHOUT_BASE, "Next: add base to evaluation.models"),
    (
        {"base": 40, "sft": 37},
        "Do not fine-tune like this: base solves more problems than sft.",
        r"sft against base: -2.1 .* not significant\)",
        "Next: set data.val",
        "More evidence",
    ),
    (
        {"base": 60, "sft": 40, "dense/lam~0.75": 43},
        "Do not fine-tune like this: base solves more problems than both fine-tuned models.",
        "dense/lam~0.75 against base: -12.1 .* p < 0.001, significant among 3 comparisons",
        "The worst: sft against base: -14.3 ",
        "Next: set data.validation_rows",
    ),
    (
        {"base": 20, "sft": 40, "moe_sft": 63, "dense/lam~0.75": 62},
        "Take moe_sft: it solves significantly more problems than base and than plain fine-tuning "
        "(sft).",
        r"moe_sft against base: \+30.7 ",
        r"moe_sft against sft: \+16.4 .* \+10.7 to \+22.9; ",
        "It is the best of 2, so the true difference is probably smaller.",
    ),
    (
        {"base": 20, "sft": 40, "moe_sft": 43, "dense/lam~0.75": 30},
        "Take plain fine-tuning (sft): it solves significantly more problems than base, and no "
        "model significantly more than it.",
        r"sft against base: \+14.3 ",
        r"moe_sft against sft: \+2.1 .* not significant",
        "More evidence",
    ),
    (
        {"base": 60, "sft": 20, "moe_sft": 40, "dense/lam~0.75": 61},
        "Not decided: dense/lam~0.75 may be better than base.",
        r"dense/lam~0.75 against base: \+0.7 ",
        "More evidence: about .* a true difference of 2.0 percentage points in 80% of the",
    ),
    (
        {"base": 40, "dense/lam~0.75": 60},
        "Not decided: dense/lam~0.75 solves significantly more problems than base, but plain "
        "fine-tuning (sft) was not evaluated.",
        r"dense/lam~0.75 against base: \+14.3 ",
        "Next: add sft to evaluation.models",
    ),
    (
        {"base": 40, "sft": 46, "dense/lam~0.75": 49},
        "Not decided between dense/lam~0.75 and plain fine-tuning (sft): only dense/lam~0.75 "
        "solves significantly more problems than base.",
        r"dense/lam~0.75 against base: \+6.4 ",
        r"dense/lam~0.75 against sft: \+2.1 ",
        "More evidence",
    ),
    (
        {"base": 40, "sft": 45},
        "Not decided: sft may be better than base.",
        r"sft against base: \+3.6 .* p = 0.0\d\d, not significant\)",
        "More evidence: about .* 1.5 times as many, would find a true difference of 3.6 ",
    ),
    (
        {"base": 40, "sft": 40, "dense/lam~0.75": 30},
        "Not decided: no fine-tuned model solves more problems than base.",
        r"sft against base: \+0.0 percentage points \(no interval; p = 1.000, not ",
        "More evidence: at least ",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_each_case(case):
    """The same problems are solved first by all, so a difference of 5 has p = 2 / 2^5."""
    solved, decision, *reasons = case
    found = verdict(solved)
    assert found.decision == decision
    for sentence, expected in zip(found.reasons, reasons, strict=False):
        assert re.match(expected, sentence)
    others = found.reasons[len(reasons) :]
    assert [text for text in others if not text.startswith("With one seed")] == []


def test_a_worse_model_is_not_taken_and_the_extra_tests_decide():
    assert verdict({"base": 20, "sft": 60, "moe_sft": 40}).decision.startswith("Take plain")
    originals = {"base": 40, "sft": 90, "moe_sft": 120}
    found = verdict({"base": 40, "sft": 44, "moe_sft": 43}, base_tests=originals)
    assert found.decision == "Not decided: sft may be better than base."


def test_a_variant_of_sft_that_solves_more_is_taken():
    solved = {"base": 20, "sft": 40, "moe_sft": 60, "sft (b)": 90, "moe_sft (b)": 60}
    found = verdict(solved)
    assert found.decision.startswith("Take plain fine-tuning (sft (b))")
    assert found.pair == ("sft (b)", "moe_sft (b)")


@pytest.mark.parametrize(("losses", "best"), [((0.6, 0.5), "0.75"), ((0.5, 0.5), "0.5")])
def test_ties_are_broken_by_the_loss_then_by_the_order(losses, best):
    merges = [name for name in HALF if "dense" in name]
    found = verdict(HALF, losses=dict(zip(merges, losses, strict=True)))
    assert found.decision.startswith(f"Take dense/lam~{best}:")


def test_the_answers_say_why_nothing_was_measured():
    """And what the base of a decision suffers from."""
    empty = {"base": {"empty": 9, "failed": 1}, "sft": {"failed": 10}}
    found = verdict({"base": 0, "sft": 0}, count=10, outcomes=empty)
    assert found.reasons == ("base: 9 of 10 answers are empty: check the template.",)
    empty = {"base": {"cut off": 140}}
    found = verdict({"base": 0, "sft": 40}, outcomes=empty)
    assert found.decision.startswith("Take plain")
    assert "base: 140 of 140 answers are cut off: raise max_new_tokens." in found.reasons


def test_more_evidence_names_what_exists():
    limited = "remove evaluation.limit: it leaves out 9 problems of mbpp and 1 problem of own."
    js = "multipl-e/humaneval-js (161 problems) and multipl-e/mbpp-js (397 problems)"
    rs = "multipl-e/humaneval-rs (156 problems)"
    end = "to evaluation.datasets. xft plan estimates the hours."
    for sets, said in (
        ({"mbpp": 9, "small": 0, "own": 1}, limited),
        ({"humaneval": 0}, f"add mbpp (378 problems), {js} {end}"),
        ({"humaneval": 0, "mbpp": 0}, f"add {js} {end}"),
        (dict.fromkeys(["humaneval", "mbpp", "mbpp-rs"], 0), f"add {rs} {end}"),
        ({"own": 0}, None),
    ):
        reasons = verdict({"base": 2, "sft": 3}, count=10, sets=sets).reasons
        told = [text for text in reasons if text.startswith("Next")]
        assert told == [f"Next: {said}"] * bool(said)


def test_the_loss_says_what_to_try_where_tuning_harms():
    for tuned, said in ((0.4, "forgot what the prob"), (1.2, "not lower than")):
        reasons = verdict({"base": 60, "sft": 40}, losses={"base": 1.1, "sft": tuned}).reasons
        assert said in reasons[1]


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_seed_compares_models_and_not_methods(seeds):
    reasons = verdict({"base": 40, "sft": 43}, seeds=seeds).reasons
    assert any("`seeds: [42, 43, 44]` compares the methods" in text for text in reasons) == (
        seeds == 1
    )
    said = "They would not reduce the variation between the seeds."
    assert any(said in text for text in reasons) == (seeds > 1)


def test_so_many_problems_find_a_difference_as_often_as_is_said():
    """4,000 experiments with two models that differ by 2 points, and a correction for 8 pairs."""
    shares = 0.10, 0.08  # of the problems that one model alone solves
    error = ((sum(shares) - 0.02**2) / 100) ** 0.5
    count = problems_needed(100, error, pairs=8, difference=0.02)
    drawn = np.random.default_rng(0).multinomial(count, [*shares, 1 - sum(shares)], size=4000)
    first, second, _ = drawn.T / count
    error = np.sqrt((first + second - (first - second) ** 2) / count)
    p_values = 2 * norm.sf(np.abs(first - second) / error)
    assert np.mean(p_values < 0.05 / 8) == pytest.approx(0.8, abs=0.03)
