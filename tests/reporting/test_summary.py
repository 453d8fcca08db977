"""The summary: scores, differences, losses and what is said of them. The table of runs: what it
says of each result, and which models are compared.
"""

import json
import re
from pathlib import Path

import pytest
from damage import change_json
from evaluations import write_table
from pandas.testing import assert_frame_equal
from report_folders import Runs

from workflow_scripts import summary
from xft.artifacts.manifest import CONTAMINATION, hash_file, manifest_path, read_manifest
from xft.common.errors import UserError
from xft.common.file_access import write_whole
from xft.evaluation.scoring import TEST_SETS
from xft.reporting.comparisons import comparison_table, pairs
from xft.reporting.page.folder import Folder
from xft.reporting.page.parts import find_parts
from xft.reporting.run_table import LOSS_TESTS, NamedModel, read_runs, results_of
from xft.reporting.summaries import Summary


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    return Runs(Path("results"))


def cells(text: str, *first: str) -> list[list[str]]:
    """The rows of the table with these first headings, without its headings."""
    head = "".join(rf"\| {name} +" for name in first)
    _, table = re.split(rf"^{head}\|", text, maxsplit=1, flags=re.MULTILINE)
    lines = table.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


SEEDS = {"base": [20], "moe_sft": [60, 63, 69], "moe_sft vanilla": [40, 44, 42]}


def add_seeds(runs: Runs) -> None:
    """A variant and the configuration's own values, with three seeds and one base for all.

    All validation rows have one loss in a seed: a nat, and less by what the model solves.
    """
    for name, numbers in SEEDS.items():
        model, _, variant = name.partition(" ")
        for seed, passed in zip((42, 43, 44), numbers, strict=False):
            losses = [1 - passed / 100 + 4e-5 * (seed == 44) + 4e-5] * 40
            runs.add(model, passed, variant=variant, seed=seed, losses=losses)
    base = next(row for row in reversed(runs.rows) if row["model"] == "base")
    runs.rows += [base | {"variant": v, "seed": s} for v in ("", "vanilla") for s in (42, 43, 44)]


def test_the_files_and_the_terminal_hold_the_scores(runs, capsys):
    """Intervals are Wilson's."""
    runs.add("base", 110, dataset="humaneval", count=164, families=["HumanEval"])
    runs.add("dense/lam~0.75", 378, count=378)
    text, rows, _ = runs.summarise()
    score = {"pass@1": "67.1", "low": "59.6", "high": "73.8", "passed": "110"}
    assert rows[0] == {
        **{"model": "base", "dataset": "humaneval", "problems": "164"},
        **{f"{name} {tests}": score[name] for tests in ("base", "plus") for name in score},
        "model folder": "base",
        "eval file": "results/eval/base/humaneval.json",
    }
    shares = ["67.1 % (59.6 to 73.8; 110)"] * 2, ["100.0 % (99.0 to 100.0; 378)"] * 2
    base, dense = ["base", "humaneval", "164"], ["dense 0.75", "mbpp", "378"]
    assert cells(text, "model") == [base + shares[0], dense + shares[1]]
    assert "In brackets: the 95% interval (Wilson's), and the number of passed samples." in text
    note = "EvalPlus itself fails every solution of HumanEval/32. 1 of these results count"
    assert text.count(note) == 1
    printed = capsys.readouterr().out
    assert text.startswith(printed) and "100.0 % (99.0 to 100.0; 378) " in printed
    before = Path("results/comparisons.csv").read_bytes()
    assert runs.summarise()[0] == text and Path("results/comparisons.csv").read_bytes() == before


def test_the_manifest_names_the_files_that_were_read(runs):
    measured = "contamination.json"
    CONTAMINATION.write(runs.root / measured, {"rows": 9, "contaminated": 0, "problems": 64 * "0"})
    runs.add("base", 9, losses=[1.5], contamination=measured)
    runs.add("base", 9, dataset="humaneval")
    runs.summarise()
    manifest = read_manifest(manifest_path(runs.root / "summary.csv"))
    assert (manifest.kind, manifest.parameters) == ("summary", {})
    assert manifest.files.keys() == {f"summary.{end}" for end in ("csv", "md", "json")} | {
        "comparisons.csv"
    }
    names = ["eval/base/mbpp.json", "eval/base/humaneval.json", "validation/base.json", measured]
    assert manifest.inputs == {name: hash_file(runs.root / name) for name in names}


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 1, "pass@1": {}}', None])
def test_what_is_no_result_is_named(runs, content):
    runs.add("base", 9)
    file = runs.root / runs.rows[0]["eval"]
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(UserError, match=r"mbpp\.json"):
        runs.summarise()
    assert not (runs.root / "summary.csv").exists()


def test_wrong_arguments_are_named(runs, capsys):
    runs.add("base", 9)
    table = write_table(runs.root / "comparisons.csv", runs.rows)
    before = table.read_bytes()
    for out, error, message in (
        ("results/x.md", SystemExit, "--out must name the CSV file"),
        ("results/x.json", SystemExit, "--out must name the CSV file"),
        ("results/eval/base/mbpp.csv", UserError, "which the step reads"),
        ("results/x.csv", UserError, "results/comparisons.csv overlaps --runs"),
    ):
        with pytest.raises(error) as caught:
            summary.main(["--runs", str(table), "--out", out])
        assert message in capsys.readouterr().err + str(caught.value)
        assert table.read_bytes() == before


def test_the_statistics_follow_the_decision(runs):
    """The same problems are solved first by all, so a difference of 3 has p = 2 / 2^3."""
    runs.add_all({"base": 40, "sft": 43, "dense/lam~0.75": 20}, count=140)
    text, _, compared = runs.summarise()
    decision, statistics, *_ = text.split("\n\n")
    said, of_merged, of_sft, *_ = decision.splitlines()
    assert said == "- Not decided: sft may be better than base."
    assert of_merged.startswith("- dense 0.75 (XFT's merged model) against sft: -16.4 ")
    assert of_sft.startswith("- sft against base: +2.1 ")
    first, power = statistics.splitlines()
    assert first == "- Of 3 pairs of models, 2 differ significantly in pass@1."
    # What the interval of a usual pair, not of the most similar one, would just exclude from 0.
    widths = [float(row["high"]) - float(row["low"]) for row in compared if row["tests"] == "plus"]
    points = 100 * sorted(widths)[1] / 2
    assert power.startswith(f"- With 140 problems, a true difference of {points:.1f} percentage ")
    assert [row[-1] for row in cells(text, "model", "against")] == ["no", "yes", "yes"]


def test_holm_counts_the_pairs_of_a_set_and_of_all_sets_apart_and_a_dead_set_is_left_out(runs):
    """p = 2 / 2^6 = 0.031 on a and on both sets, 1 on b and for the losses."""
    solved = {"a": (40, 46), "b": (40, 40), "js": (0, 0)}
    for dataset, numbers in solved.items():
        for model, count in zip(("base", "sft"), numbers, strict=True):
            runs.add(model, count, dataset=dataset, families=[dataset], losses=[1 - count / 99])
    text, _, rows = runs.summarise()
    found = {r["dataset"]: (r["problems"], r["significant"]) for r in rows if r["tests"] == "plus"}
    false = dict.fromkeys(["b", "js"], ("100", "False"))
    assert found == {"a": ("100", "True"), **false, "all": ("200", "True")}
    said = '- All models solve 0 problems of "js". The figures over all data sets leave that out.\n'
    assert said in text and "With 200 problems, " in text


def test_sets_with_other_seeds_are_compared_apart(runs):
    for dataset, seeds in (("mbpp", (42, 43, 44)), ("humaneval", (42, 43))):
        for seed in seeds:
            solved = {"base": 20, "sft": 60 + seed % 5}
            runs.add_all(solved, seed=seed, dataset=dataset)
    text, _, rows = runs.summarise()
    assert [r["dataset"] for r in rows if r["tests"] == "plus"] == ["mbpp", "humaneval"]
    assert "\n- Compared on humaneval alone: elsewhere the problems or seeds differ.\n" in text


def test_what_the_losses_of_a_training_say_is_told(runs):
    for model, solved, loss in (("base", 52, 1.1), ("sft", 40, 1.0)):
        runs.add(model, solved, count=104, losses=[loss] * 6)
    lower = "The validation loss of sft is lower than that of base (1.0000 against 1.1000)"
    assert f"\n- {lower}" in runs.summarise()[0]
    change_json(runs.root / runs.rows[1]["validation_loss"], change_at_end=-0.06)
    more = "The loss of sft still fell at the end of training. Next: more steps."
    assert f"\n- {more}\n" in runs.summarise()[0]


def test_no_more_than_19_lines_are_printed(runs, capsys):
    for number in range(30):
        runs.add(f"dense/lam~0.{number}", 50)
    text, _, _ = runs.summarise()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 19 and printed[-1].startswith("... and ")
    assert text.splitlines()[:18] == printed[:18]


def test_different_backends_are_told(runs):
    for model, backend in {"base": "vllm", "moe_sft": "transformers", "sft": "vllm"}.items():
        runs.add(model, 9, backend=backend)
    note = "Generated with vllm: base, sft; with transformers: moe_sft. "
    text = runs.summarise()[0]
    assert note in text and "a true difference of 7.0 percentage points" in text  # 2 / 2^7 < 5% / 3
    del runs.rows[1]
    assert "Generated" not in runs.summarise()[0]


def test_the_seeds_of_a_model_are_one_row(runs):
    """sqrt((16 + 1 + 25) / 2) = 4.6. The standard error over the problems is 4.7."""
    add_seeds(runs)
    text, rows, compared = runs.summarise()
    first, second = "64.0 % (54.7 to 73.0; seeds ± 4.6)", "42.0 % (32.7 to 51.7; seeds ± 2.0)"
    assert cells(text, "model") == [
        ["base", "mbpp", "100", "1", *["20.0 % (13.3 to 28.9)"] * 2, "0.8000"],
        ["moe_sft", "mbpp", "100", "3", first, first, "0.3601 ± 0.0458"],
        ["moe_sft (vanilla)", "mbpp", "100", "3", second, second, "0.5801 ± 0.0200"],
    ]
    assert cells(text, "model", "passed")[1][:3] == ["moe_sft", "192", "108"]  # of all seeds
    found = [(row["model"], row["variant"], row["seed"]) for row in rows]
    tuned = [("moe_sft", v, seed) for v in ("", "vanilla") for seed in ("42", "43", "44")]
    assert found == [("base", "", ""), *tuned]
    assert rows[2]["pass@1 plus"] == "63.0" and rows[2]["low plus"] == "53.2"
    shown = [row for row in compared if row["tests"] == "plus"]
    pairs = ("base", "moe_sft", "1"), ("base", "moe_sft (vanilla)", "1")
    found = [(row["first"], row["second"], row["seeds_first"]) for row in shown]
    assert found == [*pairs, ("moe_sft", "moe_sft (vanilla)", "3")]
    assert [float(row["difference"]) for row in shown] == pytest.approx([0.44, 0.22, -0.22])
    for row in shown:
        assert float(row["low"]) < float(row["difference"]) < float(row["high"])
    tables = [part for part in text.split("\n| model ") if "| against " in part.splitlines()[0]]
    seeds_of_pairs = [re.findall(r"\| (\d, \d) +\|", table) for table in tables]
    of_variants, of_models = ["3, 3"], ["3, 1", "3, 1"]  # of scores, then of losses
    assert seeds_of_pairs == [of_variants, of_variants, of_models, of_models]


@pytest.mark.parametrize("seeds", [(42,), (42, 43)])
def test_only_sets_with_extra_tests_have_a_column_of_them(runs, seeds):
    def shown() -> tuple[str, list[list[str]]]:
        text, *_ = runs.summarise()
        found = Folder(runs.root)
        rows = found.results.values
        assert {row["dataset"] for row in rows if row["tests"] == "base"} <= {"mbpp"}
        titles = [part.title for part in find_parts([found])["differences"]]
        assert ("extra tests" in text) == any("extra tests" in title for title in titles)
        assert "js" in titles
        return [row[3 + (len(seeds) > 1) :] for row in cells(text, "model")]

    score = "20.0 % (13.3 to 28.9; 20)" if len(seeds) == 1 else "20.0 % (13.0 to 28.0; seeds ± 0.0)"
    solved = {"sft": 20, "moe_sft": 60}
    for seed in seeds:
        runs.add_all(solved, seed=seed, dataset="js", about={"extra_tests": False})
    assert shown()[0] == [score]
    for seed in seeds:
        runs.add_all(solved, seed=seed)
    assert shown()[::2] == [[score, "-"], [score, score]]


def test_a_loss_that_all_seeds_share_has_no_deviation(runs):
    """Each seed draws its own answers of base, whose loss has no seed."""
    for seed, passed in ((42, 9), (43, 11)):
        for dataset in ("mbpp", "humaneval"):
            runs.add("base", passed, seed=seed, dataset=dataset, losses=[0.8] * 2, temperature=0.5)
            runs.rows[-1]["validation_loss"] = runs.rows[0]["validation_loss"]
    row = ["100", "2", *["10.0 % (4.5 to 16.0; seeds ± 1.4)"] * 2, "0.8000"]
    assert cells(runs.summarise()[0], "model") == [["base", d, *row] for d in ("mbpp", "humaneval")]


def test_losses_are_compared_row_by_row(runs):
    """The first row has 6 of 30 tokens, and the others have 3."""
    runs.add("moe_sft", 40, losses=[1.0] * 9)
    for model, tokens in {"dense/lam~0.75": "t", "uniform/lam~0.75": "other rows"}.items():
        runs.add(model, 41, losses=[0.5, *[1.0] * 8], tokens=tokens)
    text, rows, compared = runs.summarise()
    (row,) = [row for row in compared if row["tests"] == "loss"]
    assert float(row["difference"]) == pytest.approx(-0.1)
    assert (row["first"], row["second"]) == ("moe_sft", "dense 0.75")
    assert (row["dataset"], row["problems"]) == ("validation rows", "9")
    assert re.search(r"^\| dense 0.75 \| moe_sft \| 9 +\| -0.1000 ", text, re.MULTILINE)
    assert [row["validation loss"] for row in rows[1:]] == ["0.9000"] * 2


@pytest.mark.parametrize("has_extra", [False, True])
def test_both_sets_of_tests_are_compared_also_if_they_say_the_same(runs, has_extra):
    """With the numbers of a table for which each set of tests was compared."""
    add_seeds(runs)
    if has_extra:
        file = runs.root / runs.rows[-1]["eval"]
        problems = json.loads(file.read_text())["problems"]
        problems[0]["plus"] = "failed"
        change_json(file, problems=problems)
    runs.summarise()
    summary = Summary(read_runs(runs.root / "runs.csv"))
    scores = [of.values(tests) for tests in TEST_SETS for of in summary.evaluations]
    losses = [of.values(LOSS_TESTS) for of in summary.losses]
    assert_frame_equal(summary.comparisons, comparison_table([*scores, *losses]))


def test_a_significant_difference_is_not_shown_as_zero(runs):
    for model, shift in {"uniform/lam~0.75": 0.0, "dense/lam~0.75": -3.1e-5}.items():
        runs.add(model, 40, losses=[row / 50 + shift for row in range(50)])
    text, *_ = runs.summarise()
    assert re.search(r"\| -3e-05 +\| - +\| < 0.001 \| yes, negligible \|", text)  # no interval
    said = "1 differs significantly in validation loss, 1 negligibly: by less than 0.01, 1% of the"
    assert f"- Of 1 pair of models, {said} perplexity.\n" in text


def test_losses_of_different_held_out_rows_are_told_apart(runs):
    """Both variants share the base's evaluation, but not its loss."""
    for variant in ("", "few"):
        about = {"variant": variant, "tokens": variant, "losses": [1.0 + len(variant)] * 2}
        runs.add_all({"base": 9, "sft": 20}, **about)
    runs.rows[2]["eval"] = runs.rows[0]["eval"]
    text, rows, _ = runs.summarise()
    assert [row["validation loss"] for row in rows] == ["", "1.0000", "4.0000"]
    sentence = "Not all validation losses are of the same validation rows"
    assert sentence in text
    runs.rows = [row for row in runs.rows if row["variant"] == ""]
    text, rows, _ = runs.summarise()
    assert rows[0]["validation loss"] == "1.0000" and sentence not in text


def test_how_many_rows_contain_a_problem_is_said(runs):
    add_seeds(runs)
    assert "contain a problem" not in runs.summarise()[0]
    for row in runs.rows[1:7]:
        row["contamination"] = "c.json"
    for count, said in (
        (12, "12 of the 1,200 rows that {} learned from contain a problem of mbpp: the scores of "),
        (0, "None of the 1,200 rows that {} learned from contains a problem of mbpp.\n"),
    ):
        content = {"rows": 1200, "contaminated": count, "problems": "0" * 64}
        CONTAMINATION.write(runs.root / "c.json", content)
        text = runs.summarise()[0]
        assert text.count("learned from") == 1
        assert said.format("moe_sft, moe_sft (vanilla)") in text
        assert ("these models may be optimistically biased.\n" in text) == (count > 0)


OF_EACH = "dense 1 (t=0.6) (loss 2.0000), of 3\n- dense 1 (own) (loss 0.5000), of 2"
WITHOUT_LOSS = "\n- dense 1 (bare), of 2"
BY_BENCHMARK = ["--chosen-by", "benchmark"], "benchmark itself", OF_EACH + WITHOUT_LOSS
BY_LOSS = [], "lowest validation loss", "dense 0.5 (t=0.6 and 1 other) (loss 1.0000), of 3"


@pytest.mark.parametrize(("words", "chosen_by", "best"), [BY_BENCHMARK, BY_LOSS])
def test_the_best_merge_of_each_mixture_is_named_by_its_first_result(runs, words, chosen_by, best):
    """Its second run solves more. Its model with equal shares is the same if nothing is learned.

    Of two that solve as many problems, the loss decides. One may have no loss.
    """
    write_diversity(runs, "d.json", [0.2, 0.3])
    for variant, solved in (("t=0.6", (40, 40, 30)), ("t=1.1", (10, 10, 50))):
        for lam, count in zip(("1.5", "1", "0.5"), solved, strict=True):
            about = {"variant": variant, "path": lam, "diversity": "d.json"}
            runs.add(f"dense/lam~{lam}", count, losses=[2 * float(lam)] * 2, **about)
    runs.add("dense/lam~0.5", 60, variant="t=0.6", path="0.5", dataset="p2", diversity="d.json")
    same = [row | {"model": "uniform/lam~1"} for row in runs.rows if row["model"][-1] == "1"]
    runs.rows = same + runs.rows
    write_diversity(runs, "own.json", [0.2])
    runs.add("dense/lam~0.5", 30, variant="own", diversity="own.json")
    runs.add("dense/lam~1", 30, variant="own", losses=[0.5] * 2, diversity="own.json")
    write_diversity(runs, "bare.json", [0.2])
    runs.add_all({"dense/lam~1": 3, "dense/lam~0.5": 2}, variant="bare", diversity="bare.json")
    text = runs.summarise(*words)[0]
    assert f"The best merge of each mixture, chosen by the {chosen_by}" in text
    assert f":\n\n- {best}\n\n" in text and " nan " not in text


def write_diversity(runs: Runs, file: str, spreads: list, routing=None) -> None:
    content = {"format": 1, "spread": spreads[0], "routing": routing}
    content["layers"] = [{"layer": n, "spread": spread} for n, spread in enumerate(spreads)]
    write_whole(runs.root / file, json.dumps(content))


def test_experts_that_are_nearly_equal_are_named(runs):
    routing = {"entropy": 1.5, "imbalance": 0.25, "steps": 10}
    others = ("vanilla", 42, [0.001, 0.002, 0.003], None), ("", 43, [0.2, 0.3, 0.4], None)
    for variant, seed, spreads, end in (("", 42, [0.2, 0.004, None], routing), *others):
        file = f"{variant}{seed}.json"
        write_diversity(runs, file, spreads, end)
        runs.add("moe_sft", 9, variant=variant, seed=seed, diversity=file)
    text = runs.summarise()[0]
    assert cells(text, "mixture") == [
        ["seed 42", "20.0 %", "0.4 %", "20.0 %", "1.500", "0.250"],
        ["vanilla, seed 42", "0.1 %", "0.1 %", "0.3 %", "", ""],
        ["seed 43", "20.0 %", "20.0 %", "40.0 %", "", ""],
    ]
    heading = "nearly equal, so the mixing coefficients have no effect:\n\n"
    assert f"{heading}- seed 42: layers 1\n- vanilla, seed 42: all layers together\n" in text
    (runs.root / "42.json").write_text("{}")
    with pytest.raises(UserError, match=r"42\.json is no result of step diversity"):
        runs.summarise()


OWN, VANILLA, RATE = "", "vanilla", "rate"


def subjects(tmp_path, *rows) -> list[NamedModel]:
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
    tuned = [(f"moe_sft ({own})", s) for own in ("a", "b and 1 other") for s in (42, 43)]
    assert [(one.subject.label, one.seed) for one in found] == [("base", None), *tuned]
    assert found[0].file == tmp_path / "base"
    losses = results_of(table, "validation_loss")
    shared = [one.subject.label for one in losses if one.seed is None]
    assert shared == [f"base ({variant})" for variant in "abc"]
    assert found[2].variation == "a, seed 43"
    assert results_of(table, "contamination") == []


def test_variants_that_share_a_result_share_the_model_on_all_data_sets(tmp_path):
    """c shares none with a, but with b, which shares one with a; d shares none."""
    shared = {"p1": "ab", "p2": "bc", "p3": "c", "p4": "d"}
    places = [(name, variant) for name in shared for variant in shared[name]]
    rows = [{"model": "sft", "variant": v, "dataset": n, "eval": n} for n, v in places]
    found = results_of(read_runs(write_table(tmp_path / "runs.csv", rows)), "eval")
    assert [one.subject.label for one in found] == [*["sft (a and 2 others)"] * 3, "sft (d)"]


def test_a_variant_is_compared_with_its_own_references_and_with_the_configuration(tmp_path):
    """The second variant shares its mixture with the first, and base and sft with all."""
    variants = RATE, VANILLA, OWN
    rows = [(model, variant, model) for model in ("base", "sft") for variant in variants]
    shared = {"moe_sft": "mixture", "uniform/lam~0.5": "uniform"}
    rows += [(model, variant, shared[model]) for model in shared for variant in variants[:2]]
    rows += [("dense/lam~0.5", variant, f"dense {variant}") for variant in variants]
    rows.append(("moe_sft", OWN, "moe_sft"))
    found = list(pairs(subjects(tmp_path, *rows)))
    named = {tuple(one.label for one in pair) for pair in found}
    mixture, equal = "moe_sft (rate and 1 other)", "uniform 0.5 (rate and 1 other)"
    dense, vanilla, rate = (f"dense 0.5{end}" for end in ("", " (vanilla)", " (rate)"))
    assert named == {
        *(("base", one) for one in ("sft", "moe_sft", mixture, dense, vanilla, rate)),
        *(("sft", one) for one in ("moe_sft", mixture, dense, vanilla, rate)),
        *(("moe_sft", dense), (mixture, vanilla), (mixture, rate)),
        *((equal, vanilla), (equal, rate)),
        *(("moe_sft", mixture), (dense, vanilla), (dense, rate)),
    }
    assert len(found) == len(named)


def test_learned_shares_are_compared_with_equal_ones_of_their_lambda(tmp_path):
    models = [f"{kind}/lam~{lam}" for kind in ("uniform", "dense") for lam in ("0.5", "1")]
    found = pairs(subjects(tmp_path, *((model, OWN, model) for model in models)))
    assert [(first.model, second.model) for first, second in found] == [
        (f"uniform/lam~{lam}", f"dense/lam~{lam}") for lam in ("0.5", "1")
    ]


def test_without_the_configurations_own_values_the_first_variant_counts(tmp_path):
    first, *others = subjects(tmp_path, *(("moe_sft", name, name) for name in "abc"))
    assert [*pairs([first, *others])] == [(first, other) for other in others]


def test_what_is_no_table_of_runs_is_named(tmp_path):
    for text, message in (
        ("model,dataset,eval\n", "runs.csv names no results"),
        ("model,dataset,eval\nbase,mbpp,\n", "runs.csv, line 2: eval is missing"),
        ("model,dataset,eval,lambda\nb,d,x.json,1\n", "line 2: lambda is not a known key"),
        ('model,dataset,eval\n"b,d,x.json\n', "is not a CSV file"),
        ("model,dataset,eval\nb,d,x\nb,d,y\n", 'names two results of b on "d": .*x and .*y. Give'),
        ("model,variant,dataset,eval\nb,,d,x\nb,v,d,x\nb,,e,y\nb,v,e,z\n", 'b on "e": .*y and .*z'),
    ):
        file = tmp_path / "runs.csv"
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_runs(file)


def test_problems_that_are_left_out_are_counted_apart_from_those_of_a_limit(runs):
    about = {"problems_in_file": 104, "left_out": ["T/1", "T/2"]}
    runs.add_all({"base": 50, "sft": 50}, about=about)
    text, *_ = runs.summarise()
    assert "\n- Left out, as excluded or too long: 2 problems.\n" in text.split("\n\n")[0]
    assert "\nLeft out of mbpp, as excluded or too long: 2 problems (T/1, T/2).\n" in text
    assert "remove evaluation.limit: it leaves out 2 problems of mbpp." in text
