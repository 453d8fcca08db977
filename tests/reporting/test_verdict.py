"""The decision of a run: a case for each sentence in `verdict.py`."""

import re
import tomllib
from dataclasses import replace
from itertools import compress, product
from math import inf
from pathlib import Path

import pytest

from xft.config.sections import MERGED, MODELS, UNTUNED
from xft.evaluation.scoring import OUTCOMES
from xft.reporting.comparisons import comparison_table
from xft.reporting.run_table import NamedModel, Values
from xft.reporting.verdict import EvaluatedModel, decide
from xft.training.at_end import VALIDATION_LOSS, change_at_end


def verdict(solved, sets=None, **about):
    return decide(*compared(solved, **about), sets or {"d": 0})


def compared(solved, count=140, losses=None, base_tests=None, seeds=1, outcomes=None, changes=None):
    """Comparisons and candidates: models solve the first problems, one more with each further seed.
    Base is evaluated once, and has no seed.

    solved: their numbers, on original + extra tests. base_tests: on the original tests, if others.
    outcomes: of the answers that do not pass, by model. changes: of losses at the end.
    """
    values, candidates = [], []
    for label, number in solved.items():
        model, _, variant = label.partition(" ")
        variants = ("", "(b)") if model == "base" else (variant,)
        subject = NamedModel(model, variants, variant.strip("()"))
        own_seeds = 1 if model == "base" else seeds
        for seed in range(own_seeds):
            for tests, numbers in (("base", base_tests or solved), ("plus", solved)):
                right = [float(n < numbers[label] + seed * (number > 0)) for n in range(count)]
                units = ("set", *range(count))
                values.append(Values(subject, seed or None, "d", tests, units, right))
        passed = own_seeds * number + sum(range(own_seeds)) * (number > 0)
        others = (outcomes or {}).get(label, {"failed": own_seeds * count - passed})
        counts = dict.fromkeys(OUTCOMES, 0) | {"passed": passed} | others
        loss, change = (losses or {}).get(label, inf), (changes or {}).get(label)
        of_sets = {"d": (passed, own_seeds * count)}
        candidates.append(EvaluatedModel(subject, counts, loss, own_seeds, change, of_sets))
    return comparison_table(values), candidates


HALF = {"base": 40, "sft": 40, "dense/lam~0.5": 60, "dense/lam~0.75": 60}
TABLE = tomllib.loads(Path(__file__).with_name("verdicts.toml").read_text())


@pytest.mark.parametrize("step", [1, -1], ids=["in order", "reversed"])
@pytest.mark.parametrize("case", TABLE["case"], ids=range(len(TABLE["case"])))
def test_each_case(case, step):
    """The same problems are solved first by all, so a difference of 5 has p = 2 / 2^5."""
    solved = dict([*case["solved"].items()][::step])
    found, reasons = verdict(solved, base_tests=case.get("base_tests")), case["reasons"]
    assert found.decision == case["decision"]
    for sentence, expected in zip(found.reasons, reasons, strict=False):
        assert re.match(expected, sentence)
    others = found.reasons[len(reasons) :]
    assert [text for text in others if not text.startswith("With one seed")] == []


def test_each_choice_of_models_has_a_verdict_or_none():
    """All that `evaluation.models` allows. Some models solve more problems than base."""
    solved = {name: 5 * ((place + 7) % len(MODELS)) for place, name in enumerate(MODELS)}
    merged = {f"{name}/lam~0.5" if name in MERGED else name: solved[name] for name in MODELS}
    table, candidates = compared(merged, count=60)
    for chosen in product((False, True), repeat=len(candidates)):
        models = [*compress(candidates, chosen)]
        labels = {model.label: model.kind for model in models}
        rows = table[table["first"].isin(labels) & table["second"].isin(labels)]
        found = decide(rows, models, {"d": 0})
        assert (found is None) == ({*rows["second"].map(labels)} <= {*UNTUNED}), labels


SFT = {"base": 20, "sft": 40}


@pytest.mark.parametrize(
    ("merged", "words", "figures", "finding"),
    [
        # The same problems are solved first by all: 7 that one alone solves have p = 2 / 2^7.
        ({"dense/lam~0.75": 60}, ("dense 0.75", ""), "+14.3", "better in pass@1"),
        ({"dense/lam~0.75": 20}, ("dense 0.75", ""), "-14.3", "worse in pass@1"),
        ({"dense/lam~0.75": 37}, ("dense 0.75", ""), "-2.1", "no difference was found"),
        ({"dense/lam~0.75": 40}, ("dense 0.75", ""), "the same pass@1", "the same results"),
        (
            {"dense/lam~1": 42, "dense/lam~0.5": 43, "dense/lam~0": 41},
            ("dense 0.5", ", the best of 3"),
            "+2.1",
            "no difference was found",
        ),
    ],
)
def test_the_second_sentence_says_how_the_merged_model_compares_with_sft(
    merged, words, figures, finding
):
    """Whatever is decided, and whichever model is evaluated first."""
    name, best_of = words
    subject = f"{name} (XFT's merged model{best_of}) against sft: {figures}"
    beside = [
        ({"base": 20}, 1),
        ({"moe_sft": 90, "base": 130}, -1),
        ({"moe_sft": 10, "uniform/lam~0.5": 45}, 1),
        ({"sft_flops": 99, "base": 20}, -1),
    ]
    for others, step in beside:
        solved = {"sft": 40} | merged | others
        found = verdict(dict([*solved.items()][::step]))
        second = found.reasons[0]
        assert second.startswith(subject) and f": {finding}." in second
        assert ("This run finds true differences of about" in second) == ("no diff" in finding)
        assert [text for text in found.reasons if "XFT" in text] == [second]
        pair = re.escape(f"{name} against sft:")
        assert not any(re.match(pair, text) for text in found.reasons)
        named = "between {1} and {0} in".format(*found.pair)
        assert all(named in text for text in found.reasons if text.startswith("More evidence"))


@pytest.mark.parametrize("solved", [SFT | {"moe_sft": 90}, SFT | {"uniform/lam~0.5": 90}, HALF])
def test_without_one_of_both_nothing_is_said_of_them(solved):
    if solved is HALF:
        solved = {name: number for name, number in HALF.items() if name != "sft"}
    assert "XFT" not in " ".join(verdict(solved).reasons)


def test_a_merged_model_that_shares_no_variant_with_sft_is_not_compared_with_it():
    found = verdict({"base": 20, "sft": 40, "dense/lam~0.5 (b)": 60})
    assert found.reasons[0] == (
        "dense 0.5 (b) (XFT's merged model) was not compared with sft: no variant has both on the "
        "same problems with all seeds."
    )


def test_a_variant_of_sft_that_solves_more_is_taken():
    solved = {"base": 20, "sft": 40, "moe_sft": 60, "sft (b)": 90, "moe_sft (b)": 60}
    found = verdict(solved)
    assert found.decision.startswith("Take plain fine-tuning (sft (b))")
    assert found.pair == ("sft (b)", "moe_sft (b)")


def test_seeds_of_the_tuned_models_compare_methods_though_the_base_has_one():
    table, candidates = compared({"base": 40, "sft": 43}, seeds=3)
    base, tuned = candidates
    for seeds, is_about_models in ((3, False), (1, True)):
        models = [replace(base, seeds=1), replace(tuned, seeds=seeds)]
        said = " ".join(decide(table, models, {"d": 0}).reasons)
        assert ("is about these trained models" in said) == is_about_models


@pytest.mark.parametrize(("losses", "best"), [((0.6, 0.5), "0.75"), ((0.5, 0.5), "0.5")])
def test_ties_are_broken_by_the_loss_then_by_the_order(losses, best):
    merges = [name for name in HALF if "dense" in name]
    found = verdict(HALF, losses=dict(zip(merges, losses, strict=True)))
    assert found.decision.startswith(f"Take dense {best}:")


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
    limited = (
        'remove evaluation.limit: it leaves out 9 problems of mbpp and 1 problem of "problems".'
    )
    js = "multipl-e/humaneval-js (161 problems) and multipl-e/mbpp-js (397 problems)"
    rs = "multipl-e/humaneval-rs (156 problems)"
    end = "to evaluation.datasets. xft plan estimates the hours."
    for sets, said in (
        ({"mbpp": 9, "small": 0, "problems": 1}, limited),
        ({"humaneval": 0}, f"add mbpp (378 problems), {js} {end}"),
        ({"humaneval": 0, "mbpp": 0}, f"add {js} {end}"),
        (dict.fromkeys(["humaneval", "mbpp", "mbpp-rs"], 0), f"add {rs} {end}"),
        ({"own": 0}, None),
    ):
        reasons = verdict({"base": 2, "sft": 3}, count=10, sets=sets).reasons
        told = [text for text in reasons if text.startswith("Next")]
        assert told == [f"Next: {said}"] * bool(said)


SHORT, STEPS, FLAT, RISING = TABLE["losses"].values()
MORE = "The loss of sft still fell at the end of training. Next: more steps."
BELOW = "The validation loss of sft is lower than that of base"


def test_the_curve_says_what_to_try():
    for losses, passes, solved, said in (
        *((SHORT, 0.1, solved, MORE) for solved in (20, 60, 63)),
        (STEPS, 0.1, 20, MORE),
        (FLAT, 6.4, 20, f"{BELOW} .* no longer fell at the end: .* forgot what the problems need"),
        (FLAT, 6.4, 57, f"{BELOW} .*: it learned the rows. Next: rows that are nearer"),
        (RISING, 23, 20, "The validation loss of sft is not lower than that of base"),
        (STEPS, 2, 20, f"{BELOW} .*: set eval_steps"),  # rows came twice
        (SHORT[-3:], 0.1, 20, f"{BELOW} .*: set eval_steps"),
    ):
        name = "loss" if losses is STEPS else VALIDATION_LOSS
        change = change_at_end([{name: loss, "epoch": passes} for loss in losses])
        about = {"losses": {"base": 1.322, "sft": losses[-1]}, "changes": {"sft": change}}
        found = verdict({"base": 60, "sft": solved}, **about)
        assert [bool(re.match(said, text)) for text in found.reasons if "Next: " in text] == [True]
        (first, *_) = verdict({"base": 0, "sft": 0}, **about).reasons
        assert first.startswith(MORE if said == MORE else "The problems are too hard")


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_seed_compares_models_and_not_methods(seeds):
    text = "\n".join(verdict({"base": 40, "sft": 43}, seeds=seeds).reasons)
    assert ("`seeds: [42, 43, 44]` compares the methods" in text) == (seeds == 1)
    assert (", if the seeds did not vary, would find a true" in text) == (seeds > 1)


def test_a_base_has_one_seed_and_says_nothing_of_the_methods_seeds():
    """All seeds share the base, which is not tuned: the methods have three."""
    table, candidates = compared({"base": 40, "sft": 43}, seeds=3)
    base, tuned = candidates
    found = decide(table, [replace(base, seeds=1), tuned], {"d": 0})
    assert "compares the methods" not in " ".join(found.reasons)
