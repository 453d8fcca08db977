"""Whether a variant is better than its control: which pairs are asked about, and what is said."""

from dataclasses import replace
from pathlib import Path

import pytest
from report_folders import Runs

from xft.common.errors import UserError
from xft.config.runs import find_runs
from xft.reporting.comparisons import OF_VARIANTS, pairs, quantities
from xft.reporting.page.folder import Folder
from xft.reporting.page.parts import find_parts
from xft.reporting.run_table import NamedModel, read_runs
from xft.reporting.summaries import Summary
from xft.reporting.variants import (
    MOST_ANSWERS,
    NO_DIFFERENCE,
    NOT_ASKED,
    NOT_COMPARED,
    NOTHING_NEW,
    ONE_SEED,
    Answer,
    answer_lines,
)


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    return Runs(Path("results"))


def summary_of(runs: Runs) -> Summary:
    runs.summarise()
    return Summary(read_runs(runs.root / "runs.csv"))


def add(runs: Runs, solved: dict[str, int], variant: str = "", **more) -> None:
    for model, passed in solved.items():
        runs.add(model, passed, variant=variant, **more)


def test_a_model_that_its_control_lacks_is_compared_with_the_own_values_or_the_first_variant():
    early, own, late = (
        NamedModel("sft", (name,), name, "vanilla") for name in ("early", "", "late")
    )
    assert list(pairs([early, own, late])) == [(own, early), (own, late)]
    assert list(pairs([early, late])) == [(early, late)]


def test_the_answer_says_what_was_found_of_each_kind_of_model(runs):
    """The mixture's loss is lower. The merged models differ on 2 problems of 100."""
    lower = [0.9 + 0.001 * (n % 3) for n in range(60)]
    higher = [1.0 + 0.002 * (n % 5) for n in range(60)]
    for variant, losses, passed in (("", higher, 50), ("late", lower, 52)):
        runs.add("moe_sft", 50, variant=variant, losses=losses)
        runs.add("dense/lam~0.75", passed, variant=variant)
    summary = summary_of(runs)
    (answer,) = summary.answers
    assert answer.conclusion == (
        "late against the configuration's own values: better in validation loss (moe_sft); no "
        "difference was found (dense 0.75)."
    )
    of_mixture, of_merge, evidence, one_seed = answer_lines([answer])[0][1]
    assert "nats of validation loss" in of_mixture and "p < 0.001, significant)" in of_mixture
    assert of_merge.startswith("dense 0.75: +2.0 percentage points (95% interval +0.0 to ")
    assert evidence.startswith("More evidence: ") and one_seed == ONE_SEED
    # On 7 problems at least, as p is then 2 / 2^7 < 5% / 2.
    assert (
        "This run finds true differences of about 7.0 percentage points in 80% of the" in of_merge
    )


def test_more_seeds_are_told_where_they_help(runs):
    """With three seeds, +20, +80 and +40 of 400 problems are not a significant difference."""
    for seed, more in enumerate([20, 80, 40]):
        runs.add("moe_sft", 100, count=400, seed=seed)
        runs.add("moe_sft", 100 + more, count=400, seed=seed, variant="late")
    summary = summary_of(runs)
    _, rows = next(quantities(summary.comparisons, OF_VARIANTS))
    (row,) = rows.itertuples()
    assert not row.significant and 3 < row.seeds_needed < 10
    (answer,) = summary.answers
    assert (
        f"More evidence: about {row.seeds_needed:.0f} seeds in place of 3, would find a true "
        "difference of 11.7 percentage points between moe_sft (late) and moe_sft in 80% of the "
        "cases."
    ) in answer.reasons[1]


def test_what_is_shared_or_the_same_is_said(runs):
    """`ties` shares the mixture of the configuration, and is the control. `xft` and `again` have
    the configuration's own values, `idle` changes nothing, and `same` nothing that was measured.
    `other` shares the mixture, and its merged model has other problems.
    """
    about = {"losses": [1.0, 1.1]}
    add(runs, {"base": 20, "moe_sft": 40, "dense/lam~0.75": 40}, **about)
    base, mixture, _ = runs.rows
    add(runs, {"dense/lam~0.75": 41}, "ties", **about)
    ties = runs.rows[-1]
    runs.rows += [row | {"variant": "ties"} for row in (base, mixture)]
    runs.rows += [row | {"variant": "idle"} for row in (base, mixture, ties)]
    add(runs, {"moe_sft": 40}, "same", **about)
    unlike = {"losses": [0.9], "tokens": "other", "count": 50}
    add(runs, {"moe_sft": 41}, "fewer", **about | unlike)
    runs.rows.append(mixture | {"variant": "other"})
    add(runs, {"dense/lam~0.75": 41}, "other", **about | unlike)
    runs.rows = [row | {"control": "ties"} for row in runs.rows]
    runs.rows[0]["own_name"] = "xft"
    runs.rows.append(runs.rows[0] | {"own_name": "again"})
    assert [answer.conclusion for answer in summary_of(runs).answers] == [
        "xft against ties: no difference was found (dense 0.75).",
        "same against ties: the same results (moe_sft).",
        f"idle against ties: {NOTHING_NEW}.",
        f"fewer against ties: {NOT_COMPARED}.",
        f"other against ties: {NOT_COMPARED}.",
    ]


@pytest.mark.parametrize(
    ("control", "of_b"), [("", ["moe_sft", "dense 0.75"]), ("c", ["dense 0.75"])]
)
def test_a_model_that_variants_share_answers_for_each_that_has_this_control(runs, control, of_b):
    """`b` shares the mixture of `a`, which is compared with that of the own values alone."""
    both = ["moe_sft", "dense 0.75"]
    add(runs, {"moe_sft": 40, "dense/lam~0.75": 40})
    add(runs, {"moe_sft": 44, "dense/lam~0.75": 40}, "a")
    add(runs, {"dense/lam~0.75": 45}, "b")
    runs.rows.append(runs.rows[2] | {"variant": "b"})
    add(runs, {"moe_sft": 42, "dense/lam~0.75": 42}, "c")
    for row in runs.rows:
        row["control"] = control if row["variant"] == "b" else ""
    summary = summary_of(runs)
    own = "the configuration's own values"
    answers = {(answer.variant, answer.control): [*answer.findings] for answer in summary.answers}
    assert answers == {("a", own): both, ("b", control or own): of_b, ("c", own): both}
    assert len(next(quantities(summary.comparisons, OF_VARIANTS))[1]) == 5


def test_the_summary_and_the_page_begin_with_the_answers(runs, capsys):
    add(runs, {"base": 20, "sft": 40, "moe_sft": 40}, losses=[1.0, 1.1])
    add(runs, {"moe_sft": 41}, "late", losses=[1.0, 1.1])
    text, *_ = runs.summarise()
    first, verdict, *_ = text.split("\n\n")
    assert first.startswith("- late against the configuration's own values: no difference was ")
    assert verdict.startswith(f"- {NOT_ASKED} Take plain fine-tuning")
    printed = capsys.readouterr().out
    assert printed.startswith(first) and NOT_ASKED in printed
    answers, taken, *_ = find_parts([Folder(runs.root)])["verdict"]
    assert answers.answers[0][0] in first and taken.note.startswith(NOT_ASKED)


def test_of_many_variants_each_finding_is_a_sentence_and_what_was_found_is_first():
    number = MOST_ANSWERS + 1
    findings = [NO_DIFFERENCE, "better in pass@1", *["worse in pass@1"] * (number - 2)]
    answers = [Answer(f"v{n}", "control", {"sft": text}) for n, text in enumerate(findings)]
    answers.append(Answer("idle", "control", {}, unknown=NOTHING_NEW))
    assert answer_lines([replace(answer, has_one_seed=True) for answer in answers]) == [
        ("sft against its control: better in pass@1 for v1.", [ONE_SEED]),
        (
            f"sft against its control: worse in pass@1 for v2, v3, v4, v5 and {number - 6} others.",
            (),
        ),
        (f"sft against its control: {NO_DIFFERENCE} for v0.", ()),
        (f"Not known: {NOTHING_NEW} for idle.", ()),
    ]


CONFIG = {"base": {"model": "m"}, "data": {"train": "r"}}
LATE, EARLY = {"moe_sft": {"max_steps": 9}}, {"moe_sft": {"max_steps": 7}}


@pytest.mark.parametrize(
    ("keys", "controls"),
    [
        ({"variants": {"late": LATE, "xft": {}}}, {"late": "", "": ""}),
        ({"variants": {"late": LATE, "early": EARLY}}, {"late": "late", "early": "late"}),
        (
            {"variants": {"late": LATE, "early": EARLY, "xft": {}}, "control": "early"},
            {"late": "early", "early": "early", "": "early"},
        ),
        (
            {"sweep": {"moe.num_experts": [7, 8]}},
            {"num_experts=7": "num_experts=7", "num_experts=8": "num_experts=7"},
        ),
        (
            # No value is the default.
            {"variants": {"late": LATE, "xft": {}}, "sweep": {"moe.num_experts": [6, 7]}},
            {
                "late, num_experts=6": "xft, num_experts=6",
                "late, num_experts=7": "xft, num_experts=7",
                "xft, num_experts=6": "xft, num_experts=6",
                "xft, num_experts=7": "xft, num_experts=6",
            },
        ),
        (
            # The rate of sft follows.
            {"variants": {"late": LATE, "xft": {}}, "sweep": {"moe_sft.learning_rate": [0.1]}},
            {
                "late, moe_sft.learning_rate=0.1": "xft, moe_sft.learning_rate=0.1",
                "xft, moe_sft.learning_rate=0.1": "xft, moe_sft.learning_rate=0.1",
            },
        ),
    ],
    ids=["own values", "first", "named", "sweep", "variants and sweep", "a key that others follow"],
)
def test_each_run_has_a_control(keys, controls):
    for seeds in ([], [1, 2]):
        found = find_runs(CONFIG | keys | {"seeds": seeds})
        assert {run.name: run.control for run in found} == controls
        own_name = "xft" if "" in controls else ""
        assert {run.own_name for run in found if not run.name} <= {own_name}


@pytest.mark.parametrize(
    ("variants", "what_to_do"),
    [({"late": LATE, "xft": {}}, "Name one of late, xft"), ({}, "Leave it out, as there are no")],
)
def test_a_control_that_is_no_variant_is_told(variants, what_to_do):
    message = rf'idea\.yaml: control: there is no variant "lat"\. {what_to_do}'
    with pytest.raises(UserError, match=message):
        find_runs(CONFIG | {"variants": variants, "control": "lat"}, "idea.yaml")
