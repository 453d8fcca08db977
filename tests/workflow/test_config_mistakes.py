"""Mistakes in a config, as the real snakemake shows them: one message, and nothing runs."""

import subprocess

import pytest
from fork_server import PYTHON


@pytest.fixture(scope="module")
def project(new_project):
    project = new_project("mistakes")
    (project.folder / "notes").write_text("a file")
    return project


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("results_dir=notes", "config: results_dir = notes: notes is a file, not a folder"),
        ("results_dir=a/$NOWHERE", "names the variable NOWHERE, which is not set. Set it with"),
        ("moe={rank: 16}", "config: moe: rank = 16: no effect with experts = full. Leave out rank"),
        ("data={validation_rows: 99}", "resources/instructions.jsonl has at most 64 rows"),
        ("moe_sft=5", "config: moe_sft = 5: must be of type object: keys, such as {num_train"),
        (
            "data={max_length: 2000}",
            "data.max_length = 2000: resources/base takes texts of at most",
        ),
        (
            "results_dir=my{a}results",
            'config: results_dir = "my{a}results": a path must not hold braces',
        ),
        (
            "evaluation={lm_eval: ['--out=x']}",
            'evaluation.lm_eval = "--out=x": a path must not begin',
        ),
        ("results_dir=-x", 'results_dir = "-x": a path must not begin with -: it would be read'),
        ('data={train: "a\\nb"}', 'data.train = "a\\nb": a path must not hold line breaks'),
        (
            'data={train: org/name, revision: "%s\\n"}' % ("0" * 40),
            '0000\\n": must be a commit hash of 40 hexadecimal digits',
        ),
        ("evaluation={datasets: [humanevl]}", "there is no file humanevl: did you mean humaneval?"),
    ],
)
def test_a_mistake_is_one_message(project, setting, message):
    done = subprocess.run(
        [PYTHON, "-m", "snakemake", *project.words("--dry-run"), setting],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
    )
    shown = done.stdout + done.stderr
    assert done.returncode == 1
    assert shown.splitlines()[-1].startswith("config: ") and message in shown
    assert "Traceback" not in shown and "rule " not in shown
    assert not project.results.exists()


def test_two_equal_keys_are_refused_with_their_lines(project):
    (project.folder / "twice.yaml").write_text("seed: 1\nbase: {model: x}\nseed: 2\n")
    done = project.snakemake("--dry-run", "--configfile", "twice.yaml")
    assert done.returncode == 1
    assert "twice.yaml, line 3" in done.stdout + done.stderr


def test_a_file_of_the_users_is_completed_by_the_documented_defaults_alone(project):
    """And not by config.yaml, whose values are for the model of the demonstration."""
    data = "data: {train: resources/instructions.jsonl}"
    datasets = "evaluation: {datasets: [resources/problems.jsonl], max_new_tokens: 200}"
    lines = ["base: {model: resources/base}", data.replace("}", ", max_length: 500}"), datasets]
    (project.folder / "mine.yaml").write_text("\n".join(lines))
    project.overlay = {"seed": 7}
    done = project.snakemake("-n", "-p", "--configfile", "mine.yaml")
    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    for flags in (
        "--seed=7 --num-experts=8 --num-experts-per-tok=6",
        "--max-length=500",
        "--num-train-epochs=4.0 --per-device-train-batch-size=8 --gradient-accumulation-steps=1 "
        "--learning-rate=5e-05 --lr-scheduler-type=linear --warmup-steps=0",
        "--prompt completion",
    ):
        assert flags in shown
    demonstration = project.snakemake("-n", "-p")
    assert "--max-steps=225" in demonstration.stdout + demonstration.stderr
