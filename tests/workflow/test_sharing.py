"""Which jobs variants, seeds and a sweep add to a finished run."""

import pytest

ENDS = ["report", "summary"]
MIXED = ["dense", "eval", *ENDS, "weighted_init", "weighted_trained"]
TUNED = ["moe_sft", "ffn", "diversity", *MIXED, "eval"]
VANILLA = {"moe": {"shared_expert": False}, "evaluation": {"models": ["base", "moe_sft"]}}


@pytest.mark.parametrize(
    ("config", "rules"),
    [
        ({"seeds": [42]}, []),
        ({"seeds": [42, 43]}, ["moe", *TUNED]),
        ({"variants": {"xft": {}}}, []),
        ({"variants": {"xft": {}, "vanilla": VANILLA}}, ["moe", "moe_sft", "eval", *ENDS]),
        ({"variants": {"xft": {}, "model": {"mixing": {"granularity": "model"}}}}, MIXED),
        (
            {"sweep": {"mixing.max_steps": [3, 4, 5]}},
            2 * [rule for rule in MIXED if rule not in ("weighted_init", *ENDS)] + ENDS,
        ),
        ({"sweep": {"moe_sft.learning_rate": [2e-3, 1e-3]}}, TUNED),
        (
            {"sweep": {"merge.lambdas": [["0.75"], ["0.5"]]}, "seeds": [42, 1]},
            ["moe", *TUNED, *2 * [rule for rule in MIXED if rule not in ENDS]],
        ),
        ({"sweep": {"evaluation.max_new_tokens": [16, 17]}}, ["eval", "eval", "eval", *ENDS]),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_only_what_is_not_shared_runs(finished_copy, config, rules):
    """The base, the tokens and every stage on which two runs agree exist once."""
    assert finished_copy.run("--dry-run", **config) == sorted(rules)


def test_another_evaluation_set_trains_nothing_again(finished_copy):
    problems = finished_copy.folder / "resources" / "problems.jsonl"
    (finished_copy.folder / "more.jsonl").write_bytes(problems.read_bytes())
    sets = {"datasets": ["resources/problems.jsonl", "more.jsonl"]}
    done = finished_copy.run("--dry-run", evaluation=sets)
    assert done == ["eval", "eval", "eval", "ground_truth", *ENDS]


def test_rows_are_cleaned_of_all_sets_that_any_run_evaluates_on(new_project):
    """Otherwise two runs that differ in their evaluation alone would share no training."""
    project = new_project("cleaned")
    problems = (project.folder / "resources" / "problems.jsonl").read_bytes()
    for name in ("a", "b"):
        (project.folder / f"{name}.jsonl").write_bytes(problems)
    sweep = {"evaluation.datasets": [["a.jsonl"], ["b.jsonl"]]}
    data = {"decontaminate_against": "null"}
    done = project.snakemake("--dry-run", "--printshellcmds", data=data, sweep=sweep)
    (command,) = (line for line in done.stdout.splitlines() if "workflow_scripts.tokens" in line)
    named = "results/problems/humaneval.jsonl results/problems/mbpp.jsonl"
    assert f"--problems a.jsonl b.jsonl {named} " in command


def test_a_file_that_no_run_makes_is_no_target(finished_copy):
    done = finished_copy.snakemake("--dry-run", "results/seed~7/moe_sft.manifest.json")
    assert done.returncode != 0
    assert "no run of the configuration makes seed~7/moe_sft" in done.stdout + done.stderr
