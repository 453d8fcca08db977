"""The summary of several variants and seeds, and of losses row by row."""

import csv
import json
import re

import numpy as np
import pytest
from evaluations import write_evaluation

from workflow_scripts import summary
from xft.common.errors import UserError
from xft.evaluation import lm_eval_result
from xft.reporting import validation_losses

VANILLA = "moe.shared_expert~false/"
NAMED = ["--variant", f"vanilla={VANILLA}", "--own-seed", 42]


def summarise(tmp_path, evals, *words):
    """Run the step with its arguments in a file. The text, and the rows of both CSV files."""
    out = tmp_path / "results" / "summary.csv"
    arguments = ["--evals", *evals, *words, "--out", out]
    (tmp_path / "arguments").write_text("".join(f"{word}\n" for word in arguments))
    summary.main([f"@{tmp_path / 'arguments'}"])
    tables = []
    for name in ("summary.csv", "comparisons.csv"):
        with out.with_name(name).open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    return out.with_suffix(".md").read_text(), *tables


def cells(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose first heading is `first`, without its headings."""
    _, table = re.split(rf"^\| {first} +\|", text, maxsplit=1, flags=re.MULTILINE)
    lines = table.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def evaluated(tmp_path, passed: dict, dataset="mbpp", count=100) -> list:
    """Results with these numbers of passed problems, by prefix and model."""
    root = tmp_path / "results"
    return [
        write_evaluation(
            root / f"{prefix}eval" / model / f"{dataset}.json",
            base=number,
            plus=number,
            count=count,
            dataset=dataset,
            model=f"results/{prefix}{model}",
        )
        for (prefix, model), number in passed.items()
    ]


SEEDS = {
    ("", "base"): 20,
    ("", "moe_sft"): 60,
    ("seed~43/", "moe_sft"): 63,
    ("seed~44/", "moe_sft"): 69,
    (VANILLA, "moe_sft"): 40,
    (f"{VANILLA}seed~43/", "moe_sft"): 44,
    (f"{VANILLA}seed~44/", "moe_sft"): 42,
}


def test_the_seeds_of_a_model_are_one_row(tmp_path):
    text, rows, _ = summarise(tmp_path, evaluated(tmp_path, SEEDS), *NAMED)
    assert cells(text, "model") == [
        ["base", "mbpp", "100", "1", "20.0 %", "20.0 %"],
        ["moe_sft", "mbpp", "100", "3", *["64.0 ± 4.6 %"] * 2],  # sqrt((16 + 1 + 25) / 2)
        ["moe_sft (vanilla)", "mbpp", "100", "3", *["42.0 ± 2.0 %"] * 2],
    ]
    assert [(row["model"], row["variant"], row["seed"]) for row in rows] == [
        ("base", "", ""),
        *(("moe_sft", "", seed) for seed in ("42", "43", "44")),
        *(("moe_sft", "vanilla", seed) for seed in ("42", "43", "44")),
    ]
    assert rows[2]["pass@1 plus"] == "63.0" and rows[2]["low plus"] == "53.2"
    assert rows[-1]["eval file"].endswith(f"{VANILLA}seed~44/eval/moe_sft/mbpp.json")


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ({"": 0.5}, [["arc", "acc", "sft", "0.5000 ± 0.0100"]]),
        ({"": 0.5, "seed~43/": 0.6}, [["arc", "acc", "sft", "2", "0.5500 ± 0.0707"]]),
        ({"": 0.5, "seed~43/": None}, [["arc", "acc", "sft", "2", "0.5000"]]),
    ],
)
def test_the_seeds_of_general_abilities_are_one_row(tmp_path, seeds, expected):
    measured = []
    for prefix, value in seeds.items():
        measured.append(tmp_path / "results" / prefix / "lm_eval" / "sft" / "tasks.json")
        metrics = {"acc": {"value": value, "stderr": 0.01}}
        content = {"format": 1, "kind": "lm_eval", "settings": {}, "tasks": {}}
        content |= {"model": {"path": f"results/{prefix}sft", "id": None}}
        content["tasks"]["arc"] = {"metrics": metrics}
        lm_eval_result.write(measured[-1], content, {})
    passed = dict.fromkeys([(prefix, "sft") for prefix in seeds], 50)
    words = ["--lm-eval", *measured, *NAMED]
    text, *_ = summarise(tmp_path, evaluated(tmp_path, passed), *words)
    assert cells(text, "task") == expected


def test_differences_over_seeds(tmp_path):
    text, _, rows = summarise(tmp_path, evaluated(tmp_path, SEEDS), *NAMED)
    shown = [row for row in rows if row["tests"] == "plus"]
    assert [(row["first"], row["second"], row["seeds_first"]) for row in shown] == [
        ("base", "moe_sft", "1"),
        ("base", "moe_sft (vanilla)", "1"),
        ("moe_sft", "moe_sft (vanilla)", "3"),
    ]
    assert [float(row["difference"]) for row in shown] == pytest.approx([0.44, 0.22, -0.22])
    for row in shown:
        assert float(row["low"]) < float(row["difference"]) < float(row["high"])
        assert (row["both"], row["seeds_second"]) == ("", "3")
    assert "with Holm's correction for 3 comparisons" in text
    sentence = "- moe_sft solves 22.0 points more than moe_sft (vanilla) on mbpp (100 problems, 3 "
    assert sentence + "seeds): shown (p < 0.001)." in text
    assert "exact McNemar" not in text


def test_pairs_without_a_shown_difference_are_counted(tmp_path):
    passed = {key: 60 + number % 2 for key, number in SEEDS.items()}
    text, _, _ = summarise(tmp_path, evaluated(tmp_path, passed), *NAMED)
    assert "\n- No difference is shown for any pair.\n" in text


def test_models_that_never_differ_have_an_interval_with_a_width(tmp_path):
    passed = dict.fromkeys(SEEDS, 60)
    _, _, rows = summarise(tmp_path, evaluated(tmp_path, passed), *NAMED)
    width = 1.959963984540054**2 / (100 + 1.959963984540054**2)  # Tango's
    for row in rows:
        assert (float(row["difference"]), float(row["p_value"])) == (0, 1)
        assert (float(row["low"]), float(row["high"])) == pytest.approx((-width, width), abs=1e-4)


def test_data_sets_together(tmp_path):
    evals = evaluated(tmp_path, SEEDS) + evaluated(tmp_path, SEEDS, "own", 200)
    text, _, rows = summarise(tmp_path, evals, *NAMED)
    assert [row["dataset"] for row in rows[:3]] == ["mbpp", "own", "all"]
    pooled = [float(row["difference"]) for row in rows if row["dataset"] == "all"]
    assert pooled[-1] == pytest.approx(-(0.22 * 100 + 0.11 * 200) / 300, abs=1e-4)
    assert " on all data sets (300 problems, 3 seeds): shown" in text


def test_single_runs_of_variants_are_compared_as_ever(tmp_path):
    passed = {("", "base"): 20, ("", "moe_sft"): 60, (VANILLA, "moe_sft"): 40}
    text, rows, compared = summarise(tmp_path, evaluated(tmp_path, passed), *NAMED)
    assert [row["variant"] for row in rows] == ["", "", "vanilla"]
    last = compared[-1]
    assert (last["first"], last["second"]) == ("moe_sft", "moe_sft (vanilla)")
    assert (last["both"], last["only_first"], last["only_second"]) == ("40", "20", "0")
    assert "seeds_first" not in last
    assert "- moe_sft (vanilla): `results/moe.shared_expert~false/moe_sft` (not kept)" in text
    assert "exact McNemar" in text


def write_losses(tmp_path, losses: dict, tokens="t") -> list:
    """Losses of rows, by prefix and model. All rows have 3 tokens but the first, which has 6."""
    files = []
    for (prefix, model), values in losses.items():
        counts = [6, *[3] * (len(values) - 1)]
        rows = [{"loss": v, "tokens": n} for v, n in zip(values, counts, strict=True)]
        files.append(tmp_path / "results" / f"{prefix}validation" / f"{model}.json")
        content = {"model": {"path": f"results/{prefix}{model}"}, "tokens": tokens, "rows": rows}
        content["loss"] = float(np.average(values, weights=counts))
        validation_losses.write_loss(files[-1], content, {}, {})
    return files


def test_losses_are_compared_row_by_row(tmp_path):
    rng = np.random.default_rng(0)
    before = rng.gamma(2, 0.5, 50)
    after = before - 0.01 + rng.normal(0, 0.01, 50)
    losses = {("", "moe_sft"): list(before), ("", "dense/lam~0.75"): list(after)}
    files = write_losses(tmp_path, losses)
    evals = evaluated(tmp_path, {("", "moe_sft"): 40, ("", "dense/lam~0.75"): 41})
    text, _, compared = summarise(tmp_path, evals, "--losses", *files)
    (row,) = [row for row in compared if row["tests"] == "loss"]
    weights = np.array([6, *[3] * 49]) / 153
    difference = weights @ (after - before)
    error = np.sqrt((weights**2 * (after - before - difference) ** 2).sum())
    assert float(row["difference"]) == pytest.approx(difference, abs=1e-4)
    assert float(row["high"]) == pytest.approx(difference + 1.96 * error, abs=5e-4)
    assert (row["first"], row["second"]) == ("moe_sft", "dense/lam~0.75")
    assert (row["dataset"], row["problems"]) == ("held-out rows", "50")
    ((*models, rows, shown, _, p_value, decision),) = cells(text.partition("McNemar")[2], "model")
    assert (models, rows, p_value) == (["dense/lam~0.75", "moe_sft"], "50", "< 0.001")
    assert (shown, decision) == (f"{difference:+.4f}", "yes")
    assert "tells models apart long before pass@1" in text
    # The scores say nothing of this.
    assert "no difference is shown" in text


def test_losses_of_other_rows_are_not_compared(tmp_path):
    files = write_losses(tmp_path, {("", "base"): [1.0, 2.0]})
    files += write_losses(tmp_path, {("", "sft"): [1.0, 2.0]}, tokens="others")
    evals = evaluated(tmp_path, {("", "base"): 40, ("", "sft"): 41})
    text, _, compared = summarise(tmp_path, evals, "--losses", *files)
    assert {row["tests"] for row in compared} == {"base", "plus"}
    assert "held-out" not in text


def test_losses_over_seeds(tmp_path):
    rng = np.random.default_rng(1)
    rows = rng.gamma(2, 0.5, 40)
    losses = {key: list(rows - number / 100) for key, number in SEEDS.items()}
    files = write_losses(tmp_path, losses)
    evals = evaluated(tmp_path, SEEDS)
    text, _, compared = summarise(tmp_path, evals, "--losses", *files, *NAMED)
    row = compared[-1]
    assert (row["first"], row["second"]) == ("moe_sft", "moe_sft (vanilla)")
    assert (row["tests"], row["seeds_first"], row["seeds_second"]) == ("loss", "3", "3")
    # All rows have one difference in a seed: only the seeds vary. Of 27 draws, one has the first
    # seed alone, and one the last.
    assert float(row["difference"]) == pytest.approx(0.22, abs=1e-4)
    by_seed = np.array([0.20, 0.19, 0.27])
    ends = 0.22 + np.sqrt(3 / 2) * (by_seed[[1, 2]] - 0.22)
    assert (float(row["low"]), float(row["high"])) == pytest.approx(tuple(ends), abs=1e-4)
    mean, deviation = rows_mean(rows) - 0.64, np.std([0.60, 0.63, 0.69], ddof=1)
    assert cells(text, "model")[1][-1] == f"{mean:.4f} ± {deviation:.4f}"


@pytest.mark.parametrize(
    ("prefixes", "expected"),
    [
        (["", "data.limit~440/"], "1.5000"),
        (["data.limit~440/", ""], "1.5000"),
        (["data.limit~440/"], "2.5000"),
        (["data.limit~440/", "data.limit~300/"], ""),
    ],
)
def test_a_model_has_the_loss_on_the_rows_of_its_own_variant(tmp_path, prefixes, expected):
    """The base has one evaluation, and a loss for each set of held-out rows."""
    losses = {"": 1.5, "data.limit~440/": 2.5, "data.limit~300/": 3.5}
    files = []
    for prefix in prefixes:
        files += write_losses(tmp_path, {(prefix, "base"): [losses[prefix]]})
        content = json.loads(files[-1].read_text())
        content["model"]["path"] = "results/base"
        files[-1].write_text(json.dumps(content))
    _, rows, _ = summarise(tmp_path, evaluated(tmp_path, {("", "base"): 20}), "--losses", *files)
    assert [row.get("validation loss", "") for row in rows] == [expected]


def rows_mean(rows) -> float:
    return float(np.average(rows, weights=[6, *[3] * (len(rows) - 1)]))


def test_what_may_be_too_high_and_what_was_chosen_is_said(tmp_path):
    evals = evaluated(tmp_path, SEEDS)
    text, _, _ = summarise(tmp_path, evals, "--uncleaned", *evals[1:3], *NAMED)
    assert (
        "The rows that moe_sft learned from were not cleaned of the problems of mbpp. These scores "
        "on mbpp may be too high." in text
    )
    with pytest.raises(UserError, match=r"--uncleaned .*other\.json: must be one of the files of"):
        summarise(tmp_path, evals, "--uncleaned", tmp_path / "other.json")


def test_the_best_of_several_merges_of_a_mixture_is_named(tmp_path):
    """By the loss on held-out rows, which here disagrees with the benchmark."""
    merges = ("", "dense/lam~0.5"), ("mixing.init~usage/", "dense/lam~0.5")
    evals = evaluated(tmp_path, {merges[0]: 10, merges[1]: 20, (VANILLA, "moe_sft"): 30})
    losses = write_losses(tmp_path, {merges[0]: [1.0, 1.0], merges[1]: [2.0, 2.0]})
    text, _, _ = summarise(tmp_path, evals, "--losses", *losses)
    head = "The best merge of each mixture, chosen by"
    assert f"{head} the lowest loss on the held-out rows:\n\n- dense/lam~0.5 (loss 1" in text
    text, _, _ = summarise(tmp_path, evals)
    assert f"{head} the benchmark itself. Its score is" in text
    assert "- dense/lam~0.5 (mixing.init~usage), of 2\n" in text
    text, _, _ = summarise(tmp_path, evals, "--losses", *losses, "--chosen-by", "benchmark")
    assert "- dense/lam~0.5 (mixing.init~usage) (loss 2.0000), of 2\n" in text


def test_experts_that_are_nearly_equal_are_named(tmp_path):
    spreads = {"": [0.2, 0.004, None], VANILLA: [0.001, 0.002, 0.003], "seed~43/": [0.2, 0.3, 0.4]}
    files = []
    for prefix, by_layer in spreads.items():
        files.append(tmp_path / "results" / prefix / "diversity.json")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format": 1,
            "kind": "diversity",
            "model": {"path": "m"},
            "spread": by_layer[0],
            "routing": None,
        }
        if not prefix:
            content["routing"] = {"entropy": 1.5, "imbalance": 0.25, "steps": 10}
        layers = [{"layer": n, "spread": spread} for n, spread in enumerate(by_layer)]
        files[-1].write_text(json.dumps(content | {"layers": layers}))
    evals = evaluated(tmp_path, SEEDS)
    text, _, _ = summarise(tmp_path, evals, "--diversity", *files, *NAMED)
    assert cells(text, "mixture") == [
        ["seed~42", "20.0 %", "0.4 %", "20.0 %", "1.500", "0.250"],
        ["vanilla", "0.1 %", "0.1 %", "0.3 %", "", ""],
        ["seed~43", "20.0 %", "20.0 %", "40.0 %", "", ""],
    ]
    heading = "The experts are nearly equal, and no mixing can matter there:\n\n"
    assert f"{heading}- vanilla: all layers together\n- seed~42: layers 1\n" in text
    files[0].write_text("{}")
    with pytest.raises(UserError, match=r"diversity\.json is no result of step diversity"):
        summarise(tmp_path, evals, "--diversity", *files)
