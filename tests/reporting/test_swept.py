"""Which value of a swept key is the best: against means, intervals and tests that are computed
independently.
"""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from evaluations import write_table
from report_folders import Runs, write_solutions
from scipy.stats import norm
from test_report import write_report

from xft.common.errors import UserError
from xft.reporting.comparisons import LOSSES, OF_SWEEP, SCORES, significant
from xft.reporting.names import key_texts, model_text, number_text, path_text, value_texts
from xft.reporting.run_table import read_runs
from xft.reporting.summaries import Summary
from xft.reporting.swept import NOT_ASKED_BY_SWEEP, ONE_SEED

RATE, STEPS, OPTIMISER = "sft.learning_rate", "sft.max_steps", "sft.optim"
NOISE = np.random.default_rng(1).normal(0, 0.02, 60)  # of rows


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    return Runs(Path("results"))


def add(runs: Runs, point: dict, loss=None, solved: int = 50, model: str = "sft", **more) -> None:
    """Add an evaluation with values of a sweep, and losses of rows around a mean."""
    name = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in point.items())
    losses = {} if loss is None else {"losses": [*(loss + NOISE)]}
    runs.add(model, solved, variant=name, swept=json.dumps(point), **losses, **more)


def summary_of(runs: Runs) -> Summary:
    runs.summarise()
    return Summary(read_runs(runs.root / "runs.csv"))


def said_of(runs: Runs, loss_of: dict, key: str = RATE) -> str:
    """The only sentence about a sweep with these losses by value."""
    for value, loss in loss_of.items():
        add(runs, {key: value}, loss)
    ((sentence, _),) = summary_of(runs).asked
    return sentence


def test_the_best_value_is_named_with_those_that_are_worse_and_the_edge(runs):
    """All rows differ by the same, so p is at its bound, 2 / 2^60, but where two are equal."""
    assert said_of(runs, {2e-3: 1.2, 5e-4: 1.0, 1e-3: 1.1}) == (
        f"Of `{RATE}`, 5e-4 has the lowest validation loss for sft; 1e-3 and 2e-3 are "
        "significantly worse; 5e-4 is the lowest value that was tried: try lower ones."
    )


def test_a_best_value_in_the_middle_is_not_at_the_edge(runs):
    losses = {1e-4: 1.1, 5e-4: 1.0, 1e-3: 1.2}
    said = "1e-4 and 1e-3 are significantly worse."
    assert said_of(runs, losses).endswith(f"for sft; {said}")


def test_equal_values_are_ties_and_no_edge(runs):
    """Though one of them is the lowest that was tried. The means differ by rounding alone."""
    assert said_of(runs, {1e-4: 0.3, 5e-4: 0.1 + 0.2, 1e-3: 1.2}) == (
        f"Of `{RATE}`, 1e-4 and 5e-4 have the lowest validation loss for sft equally; 1e-3 is "
        "significantly worse."
    )


def test_a_key_without_effect_is_told(runs):
    said = f"Of `{RATE}`, all values have the same validation loss for sft."
    assert said_of(runs, {1e-4: 1.0, 5e-4: 1.0}) == said


def test_the_last_value_that_a_key_may_have_is_no_edge(runs):
    """Weight decay is at least 0."""
    said = said_of(runs, {0.0: 1.0, 0.1: 1.2}, "sft.weight_decay")
    assert said.endswith("0 has the lowest validation loss for sft; 0.1 is significantly worse.")


def test_the_highest_value_is_an_edge_too(runs):
    assert said_of(runs, {8: 1.2, 16: 1.1, 32: 1.0}, "moe.num_experts").endswith(
        "32 is the highest value that was tried: try higher ones."
    )


@pytest.mark.parametrize("values", [["b", "a"], ["9", "10"], [True, False], [None, 5]])
def test_other_values_than_numbers_keep_their_order_and_have_no_edge(runs, values):
    said = said_of(runs, dict(zip(values, (1.0, 1.2), strict=True)), OPTIMISER)
    best, other = value_texts(values)
    assert said == (
        f"Of `{OPTIMISER}`, {best} has the lowest validation loss for sft; {other} is "
        "significantly worse."
    )
    (line, _) = summary_of(runs).swept
    assert [point.text for point in line.points] == [best, other]


def test_means_and_intervals_are_over_seeds_and_units(runs):
    """The interval of a loss: 1.96 standard errors of a weighted mean over the rows, of the mean of
    the seeds. The first row has 6 tokens, the others have 3.
    """
    shifts = {42: 0.0, 43: 0.03}
    for rate, loss, solved in ((1e-4, 1.0, 30), (1e-3, 1.1, 50)):
        for seed, shift in shifts.items():
            add(runs, {RATE: rate}, loss + shift, solved + (seed == 43) * 4, seed=seed)
    of_losses, of_scores = summary_of(runs).swept
    assert (of_losses.quantity, of_scores.quantity) == (LOSSES, SCORES)
    weights = np.array([6, *[3] * 59]) / 183
    rows = 1.0 + NOISE + 0.015
    mean = weights @ rows
    half = 1.96 * np.sqrt((weights**2 * (rows - mean) ** 2).sum())
    figure = of_losses.points[0].figure
    assert (figure.mean, figure.low, figure.high) == pytest.approx((mean, mean - half, mean + half))
    assert figure.by_seed == pytest.approx({42: mean - 0.015, 43: mean + 0.015})
    figure = of_scores.points[1].figure
    assert figure.mean == 0.52 and figure.by_seed == {42: 0.5, 43: 0.54}
    # 50 problems are solved with both seeds, 4 with one: the normal interval of such shares.
    shares = np.array([1.0] * 50 + [0.5] * 4 + [0.0] * 46)
    error = norm.ppf(0.975) * shares.std() / 10
    assert (figure.low, figure.high) == pytest.approx((0.52 - error, 0.52 + error), abs=0.01)


def test_what_is_said_of_each_method_has_its_figures_and_says_that_there_is_one_seed(runs):
    """p = 2 / 2^k for k problems, and the best one solves 7 and 9 more than others. Of 3 values of
    two methods there are 6 pairs: 7 are significant among one pair, not among 6.
    """
    for rate, solved in {1e-4: 40, 5e-4: 42, 1e-3: 49}.items():
        add(runs, {RATE: rate}, solved=solved)
        add(runs, {RATE: rate}, solved=40, model="moe_sft")
    (first, reasons), (second, _) = summary_of(runs).asked
    assert first == (
        f"Of `{RATE}`, 1e-3 has the highest pass@1 for sft; 1e-4 is significantly worse; no "
        "difference from 5e-4 was found; 1e-3 is the highest value that was tried: try higher ones."
    )
    assert second == f"Of `{RATE}`, all values have the same pass@1 for moe_sft."
    assert reasons[0].startswith("sft: pass@1 49.0 (39.4 to 58.7) % with 1e-3; with 5e-4 -7.0 ")
    assert reasons[-1] == ONE_SEED


def test_a_family_of_all_pairs_keeps_its_level_and_pairs_with_the_best_alone_do_not():
    """Of 8 equal values, whose means have a normal error. The best one is the lowest mean."""
    means = np.sort(np.random.default_rng(1).normal(size=(1000, 8)), axis=1)
    first, second = zip(*combinations(range(8), 2), strict=True)  # the best one's pairs come first
    differences = means[:, [*second]] - means[:, [*first]]
    found = 2 * norm.sf(differences / 2**0.5)
    of_family = [any(significant(p_values)[:7]) for p_values in found]
    of_best = [any(significant(p_values[:7])) for p_values in found]
    assert np.mean(of_family) < 0.05 < 0.1 < np.mean(of_best)


def test_methods_of_which_the_same_is_found_share_a_sentence(runs):
    for rate, loss in ((1e-4, 1.1), (5e-4, 1.0), (1e-3, 1.2)):
        for model in ("sft", "moe_sft", "dense/lam~0.75"):
            add(runs, {RATE: rate}, loss, model=model)
    ((said, _),) = summary_of(runs).asked
    assert "for sft, moe_sft and dense 0.75; 1e-4 and 1e-3 are" in said


def test_a_missing_seed_is_told(runs):
    for rate, seeds in ((1e-4, (42, 43)), (5e-4, (42,)), (1e-3, (42, 43))):
        for seed in seeds:
            add(runs, {RATE: rate}, 1.0 + rate + 0.1 * (seed - 42), seed=seed)
    summary = summary_of(runs)
    line = summary.swept[0]
    assert line.lacking == ["5e-4"]
    assert [len(point.figure.by_seed) for point in line.points] == [2, 1, 2]
    ((_, reasons),) = summary.asked
    assert "sft: not all seeds have 5e-4, so its mean is over fewer seeds." in reasons


@pytest.mark.parametrize(
    ("other_rows", "ranked"),
    [
        ([(1e-3, 43)], ["1e-4", "5e-4"]),  # its mean would be over different rows
        ([(1e-3, 42), (1e-3, 43)], None),  # its mean is over other rows than theirs
    ],
    ids=["a seed", "a value"],
)
def test_losses_on_different_rows_are_not_ranked_with_each_other(runs, other_rows, ranked):
    """Though the value that was measured on other rows has the lowest losses."""
    for rate, loss in {1e-4: 1.1, 5e-4: 1.0, 1e-3: 0.9}.items():
        for seed in (42, 43):
            tokens = "other" if (rate, seed) in other_rows else "t"
            add(runs, {RATE: rate}, loss, seed=seed, tokens=tokens)
    lines = [line for line in summary_of(runs).swept if line.quantity is LOSSES]
    assert [[point.text for point in line.points] for line in lines] == ([ranked] if ranked else [])
    assert [line.best[0].text for line in lines] == (["5e-4"] if ranked else [])


def test_with_two_keys_each_is_shown_at_the_best_value_of_the_other(runs):
    """The best rate differs between the numbers of steps."""
    losses = {(1e-4, 30): 1.5, (1e-4, 90): 1.1, (1e-3, 30): 1.2, (1e-3, 90): 1.3}
    for (rate, steps), loss in losses.items():
        add(runs, {RATE: rate, STEPS: steps}, loss)
    summary = summary_of(runs)
    of_rate, of_steps = (line for line in summary.swept if line.quantity is LOSSES)
    assert (of_rate.key, of_rate.title) == (RATE, "sft, steps 90")
    assert (of_steps.key, of_steps.title) == (STEPS, "sft, lr 1e-4")
    means = {line.key: [p.figure.mean for p in line.points] for line in (of_rate, of_steps)}
    shift = np.average(NOISE, weights=[6, *[3] * 59])
    assert means[RATE] == pytest.approx([1.1 + shift, 1.3 + shift])
    assert means[STEPS] == pytest.approx([1.5 + shift, 1.1 + shift])
    (grid, _) = summary.grids
    assert grid.names == ("lr", "steps") and grid.best == ("1e-4", "90")
    assert {texts: figure.mean for texts, figure in grid.figures.items()} == pytest.approx(
        {(number_text(rate), str(steps)): m + shift for (rate, steps), m in losses.items()}
    )
    # Pairs that differ in both keys are not compared.
    table = summary.comparisons
    assert (table["question"] == OF_SWEEP).sum() == 4 * 3  # of both sets of tests, and losses


def test_a_model_has_the_keys_that_it_depends_on(runs):
    """The plain model depends on the rate alone: runs with other values of the second key share it.
    The base depends on none.
    """
    for rate in (1e-4, 1e-3):
        for experts in (4, 8):
            point = {RATE: rate, "moe.num_experts": experts}
            add(runs, point, model="moe_sft")
            for model, file in (("sft", f"{rate}"), ("base", "b")):
                runs.rows.append(runs.rows[-1] | {"model": model, "eval": f"eval/{file}.json"})
    for file in ("0.0001", "0.001", "b"):
        shared = runs.root / f"eval/{file}.json"
        shared.write_bytes((runs.root / runs.rows[0]["eval"]).read_bytes())
    summary = summary_of(runs)
    labels = dict.fromkeys(result.subject.label for result in summary.evaluations)
    mixtures = [f"moe_sft, lr {r}, experts {n}" for r in ("1e-4", "1e-3") for n in (4, 8)]
    assert {*labels} == {"base", "sft, lr 1e-4", "sft, lr 1e-3", *mixtures}
    rows = {
        tuple(row[1:]) for row in summary.table[["model", RATE, "moe.num_experts"]].itertuples()
    }
    assert ("base", "", "") in rows and ("sft", "0.0001", "") in rows
    assert ("moe_sft", "0.001", "8") in rows


def test_the_sentences_come_before_the_verdict_and_the_tables_have_the_values(runs, capsys):
    runs.add("base", 20, losses=[2.0, 2.1])
    base = runs.rows[0]
    for rate, loss in ((1e-4, 1.1), (5e-4, 1.0)):
        add(runs, {RATE: rate}, loss, solved=60)
        runs.rows.append(
            base | {"variant": runs.rows[-1]["variant"], "swept": json.dumps({RATE: rate})}
        )
    del runs.rows[0]
    text, *_ = runs.summarise()
    first, verdict, *_ = text.split("\n\n")
    assert first.startswith(f"- Of `{RATE}`, 5e-4 has the lowest validation loss for sft; ")
    assert verdict.startswith(f"- {NOT_ASKED_BY_SWEEP} Take plain fine-tuning (sft, lr ")
    assert first.splitlines()[0] in capsys.readouterr().out
    assert "| lr   | sft " in text and ", best" in text and ", worse |" in text
    for row in runs.rows:
        write_solutions(runs.root / row["eval"])
    page = write_report(runs.root)
    drawn = page.charts[f"validation loss over {RATE}"]
    assert {(row["line"], row["x"]) for row in drawn} == {("sft", 1e-4), ("sft", 5e-4)}
    drawn = page.charts[f"pass@1, % over {RATE}"]
    level = {(row["line"], row["x"]) for row in drawn if row.get("level")}
    assert level == {("base", 1e-4), ("base", 5e-4)}
    before, _, after = page.text.partition(NOT_ASKED_BY_SWEEP)
    assert "5e-4 has the lowest validation loss for sft" in before
    assert "Take plain fine-tuning" in after


@pytest.mark.parametrize("swept", ["[1]", "{", '{"a\\"b": 1}', '{"{x}": 1}', "[" * 99_999])
def test_what_are_no_swept_values_is_named(runs, swept):
    """The table may be somebody else's."""
    runs.add("sft", 5)
    runs.rows[0]["swept"] = '{"a": 1}'
    table = write_table(runs.root / "runs.csv", runs.rows)
    quoted = '"' + swept.replace('"', '""') + '"'
    table.write_text(table.read_text().replace('"{""a"": 1}"', quoted))
    with pytest.raises(UserError, match=r"runs.csv, line 2: swept"):
        read_runs(table)


def test_names_are_short_and_differ():
    assert model_text("dense/lam~0.75") == "dense 0.75"
    assert key_texts([RATE, "moe.top"]) == {RATE: "lr", "moe.top": "top"}
    both = [RATE, "moe_sft.learning_rate"]
    assert key_texts(both) == dict(zip(both, ("sft.lr", "moe_sft.lr"), strict=True))
    values = [0.0005, 2e-05, 0.05, 1.0, 3, 1e6, True, None, "a/b.jsonl", "m.py:f(x=1)"]
    texts = ["5e-4", "2e-5", "0.05", "1", "3", "1e6", "true", "null", "b.jsonl", "f(x=1)"]
    assert value_texts(values) == texts
    assert value_texts([0.1 + 0.2, 0.4]) == ["0.3", "0.4"]
    assert value_texts([0.1 + 0.2, 0.3]) == ["0.30000000000000004", "0.3"]
    assert value_texts(["a/rows.jsonl", "b/rows.jsonl"]) == ["a/rows.jsonl", "b/rows.jsonl"]
    folders = "moe_sft.learning_rate~2e-05/sft.learning_rate~2e-05/seed~43"
    assert path_text(f"{folders}/dense/lam~0.5") == "dense 0.5, lr 2e-5, seed 43"
    shares = path_text("seed~43/weighted_trained/lam~0.5")
    assert shares == "weighted_trained, lambda 0.5, seed 43"
