"""The table of runs: what it says of each result, and which models are compared."""

import pytest
from evaluations import write_table

from xft.common.errors import UserError
from xft.reporting.comparisons import pairs
from xft.reporting.runs import Subject, read_runs, results_of

OWN, VANILLA, RATE = "", "vanilla", "rate"


def subjects(tmp_path, *rows) -> list[Subject]:
    """The subjects of evaluations. rows: model, variant and file of each."""
    named = [{"model": m, "variant": v, "dataset": "d", "eval": f} for m, v, f in rows]
    table = read_runs(write_table(tmp_path / "runs.csv", named))
    return [result.subject for result in results_of(table, "eval")]


def test_a_result_that_runs_share_is_named_once(tmp_path):
    """All runs have one base, b and c one moe_sft for each seed. Held-out rows are of a variant.

    Paths are relative to the table.
    """
    rows = [
        {"model": model, "variant": variant, "seed": seed, "dataset": "d"}
        | {"eval": "../base" if model == "base" else f"{variant.replace('c', 'b')}{seed}"}
        | {"validation_loss": f"{model}{variant}{'' if model == 'base' else seed}"}
        for variant in ("a", "b", "c")
        for seed in (42, 43)
        for model in ("base", "moe_sft")
    ]
    table = read_runs(write_table(tmp_path / "folder" / "runs.csv", rows))
    found = results_of(table, "eval")
    assert [(one.subject.label, one.seed) for one in found] == [
        ("base", None),
        *(("moe_sft (a)", seed) for seed in (42, 43)),
        *(("moe_sft (b and 1 other)", seed) for seed in (42, 43)),
    ]
    assert found[0].file == tmp_path / "base"
    losses = results_of(table, "validation_loss")
    assert [one.subject.label for one in losses if one.seed is None] == [
        f"base ({variant})" for variant in "abc"
    ]
    assert found[1].subject.variation(43) == "a, seed 43"
    assert results_of(table, "contamination") == []


def test_variants_that_share_a_result_share_the_model_on_all_data_sets(tmp_path):
    """c shares none with a, but with b, which shares one with a; d shares none."""
    shared = {"p1": "ab", "p2": "bc", "p3": "c", "p4": "d"}
    rows = [
        {"model": "sft", "variant": v, "dataset": name, "eval": name}
        for name, variants in shared.items()
        for v in variants
    ]
    found = results_of(read_runs(write_table(tmp_path / "runs.csv", rows)), "eval")
    assert [one.subject.label for one in found] == [*["sft (a and 2 others)"] * 3, "sft (d)"]


def test_a_variant_is_compared_with_its_own_references_and_with_the_configuration(tmp_path):
    """The second variant shares its mixture with the first, and base and sft with all."""
    base = [("base", variant, "base") for variant in (RATE, VANILLA, OWN)]
    sft = [("sft", variant, "sft") for variant in (RATE, VANILLA, OWN)]
    mixtures = [("moe_sft", variant, "mixture") for variant in (RATE, VANILLA)]
    uniform = [("uniform/lam~0.5", variant, "uniform") for variant in (RATE, VANILLA)]
    merges = [("dense/lam~0.5", variant, f"dense {variant}") for variant in (RATE, VANILLA, OWN)]
    rows = [*base, *sft, *mixtures, *uniform, *merges, ("moe_sft", OWN, "moe_sft")]
    found = list(pairs(subjects(tmp_path, *rows)))
    named = {tuple(one.label for one in pair) for pair in found}
    mixture, equal = "moe_sft (rate and 1 other)", "uniform/lam~0.5 (rate and 1 other)"
    dense, vanilla, rate = (f"dense/lam~0.5{end}" for end in ("", " (vanilla)", " (rate)"))
    assert named == {
        *(("base", one) for one in ("sft", "moe_sft", mixture, dense, vanilla, rate)),
        *(("sft", one) for one in ("moe_sft", mixture, dense, vanilla, rate)),
        *(("moe_sft", dense), (mixture, vanilla), (mixture, rate)),
        *((equal, vanilla), (equal, rate)),
        *(("moe_sft", mixture), (dense, vanilla), (dense, rate)),
    }
    assert len(found) == len(named)


def test_without_the_configurations_own_values_the_first_variant_counts(tmp_path):
    first, *others = subjects(tmp_path, *(("moe_sft", name, name) for name in "abc"))
    assert [*pairs([first, *others])] == [(first, other) for other in others]


def test_what_is_no_table_of_runs_is_named(tmp_path):
    for text, message in (
        ("model,dataset,eval\n", "runs.csv names no results"),
        ("model,dataset,eval\nbase,mbpp,\n", "runs.csv, line 2: eval is missing"),
        ("model,dataset,eval,lambda\nb,d,x.json,1\n", "line 2: lambda is not a known key"),
        ('model,dataset,eval\n"b,d,x.json\n', "is not a CSV file"),
        ("model,dataset,eval\nb,d,x\nb,d,y\n", "names two results of b on d: .*x and .*y. Give"),
        ("model,variant,dataset,eval\nb,,d,x\nb,v,d,x\nb,,e,y\nb,v,e,z\n", "b on e: .*y and .*z"),
    ):
        file = tmp_path / "runs.csv"
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_runs(file)
