"""Which variant, seed and model a result is about, and which models are compared."""

from pathlib import Path

import pytest

from xft.common.errors import UserError
from xft.reporting.comparisons import pairs
from xft.reporting.subjects import (
    Names,
    Subject,
    check_distinct,
    subject,
    with_own_seed,
)

VANILLA = ("moe.shared_expert~false",)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("results/eval/base/p.json", Subject((), "base")),
        ("results/seed~43/eval/moe_sft/p.json", Subject((), "moe_sft", 43)),
        (
            "results/moe.num_experts~4/mixing.learning_rate~0.1/seed~7/eval/dense/lam~0.5/p.json",
            Subject(("moe.num_experts~4", "mixing.learning_rate~0.1"), "dense/lam~0.5", 7),
        ),
        # Folders of the user's own that name no key.
        ("moe.num_experts~4/mine/eval/base/p.json", Subject((), "base")),
        ("backup~1/eval/base/p.json", Subject((), "base")),
        ("seed~1/p.json", Subject((), "m")),
    ],
)
def test_a_path_names_variant_seed_and_model(file, expected):
    assert subject(Path(file), "models/m") == expected


def test_the_own_seed_is_that_of_models_which_have_other_seeds():
    base, own, other = Subject((), "base"), Subject((), "sft"), Subject((), "sft", 43)
    assert with_own_seed([base, own, other], 42) == [base, Subject((), "sft", 42), other]
    assert with_own_seed([base, own], 42) == [base, own]


def test_two_results_of_one_seed_are_refused():
    files = {Path(name): (Subject((), "sft", 42), "mbpp") for name in ("a.json", "b.json")}
    with pytest.raises(UserError, match=r"a\.json and b\.json are both results of seed 42\. Give"):
        check_distinct(files)


def test_names():
    names = Names(["vanilla=moe.shared_expert~false/", "own="])
    assert names.label(Subject(VANILLA, "dense/lam~0.5", 43)) == "dense/lam~0.5 (vanilla, seed~43)"
    assert names.label(Subject((), "base")) == "base (own)"
    # Another prefix is no variant. Only one section has the first key, several have the second.
    changes = (*VANILLA, "moe_sft.learning_rate~0.1")
    label = "moe_sft (shared_expert~false, moe_sft.learning_rate~0.1)"
    assert names.label(Subject(changes, "moe_sft")) == label


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        (["vanilla"], "must be NAME=PREFIX"),
        (["=moe.shared_expert~false/"], "must be NAME=PREFIX"),
        (["vanilla=results/moe.shared_expert~false/"], "must be NAME=PREFIX"),
        (["a=moe.num_experts~4/", "b=moe.num_experts~4"], "another variant has this name or this"),
        (["a=moe.num_experts~4/", "a=moe.num_experts~2/"], "another variant has this name or this"),
    ],
)
def test_wrong_variants_are_named(variants, message):
    with pytest.raises(UserError, match=message):
        Names(variants)


def test_a_variant_is_compared_with_what_it_comes_from_and_with_the_configuration():
    """The second variant shares its mixture with the first, and base and sft with all."""
    rate = (*VANILLA, "mixing.learning_rate~0.1")
    base, sft = Subject((), "base"), Subject((), "sft")
    moe_sft, dense = Subject((), "moe_sft"), Subject((), "dense/lam~0.5")
    mixture, vanilla = Subject(VANILLA, "moe_sft"), Subject(VANILLA, "dense/lam~0.5")
    both = Subject(rate, "dense/lam~0.5")
    uniform = Subject(VANILLA, "uniform/lam~0.5")
    found = pairs([both, vanilla, uniform, mixture, dense, moe_sft, sft, base])
    assert set(found) == {
        *((base, one) for one in (sft, moe_sft, mixture, dense, vanilla, both)),
        *((sft, one) for one in (moe_sft, mixture, dense, vanilla, both)),
        *((moe_sft, dense), (mixture, vanilla), (mixture, both)),
        *((uniform, vanilla), (uniform, both)),
        *((moe_sft, mixture), (dense, vanilla), (dense, both)),
    }
    assert len(found) == len(set(found))


def test_without_the_configurations_own_values_the_first_variant_counts():
    first, *others = (Subject((f"moe.num_experts~{n}",), "moe_sft") for n in (4, 2, 6))
    assert pairs([first, *others]) == [(first, other) for other in others]
