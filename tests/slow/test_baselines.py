"""The models that the merged one is compared with, and the losses on held-out rows."""

import csv
import json

import pytest
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.slow
MODELS = ["base", "sft", "moe_sft", "uniform", "dense"]
NAMES = ["base", "sft", "moe_sft", "uniform/lam~0.75", "dense/lam~0.75"]


@pytest.fixture(scope="module")
def project(new_project):
    """A project in which a workflow with all baselines and held-out rows has run once."""
    project = new_project("baselines")
    project.overlay = project.overlay | {
        "data": {"limit": 64, "validation_rows": 6},
        "evaluation": project.overlay["evaluation"] | {"models": MODELS},
    }
    ran = project.run()
    assert {name: ran.count(name) for name in ("sft", "uniform", "eval", "validation_loss")} == {
        "sft": 1,
        "uniform": 1,
        "eval": 5,
        "validation_loss": 5,
    }
    return project


def rows_of(file) -> list[dict]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_each_model_stands_in_the_summary_with_its_loss(project):
    rows = rows_of(project.results / "summary.csv")
    assert [row["model"] for row in rows] == NAMES
    losses = {name: f"{loss:.4f}" for name, loss in logged_losses(project).items()}
    for row in rows:
        assert row["validation loss"] == losses.get(row["model"], row["validation loss"])
        assert float(row["validation loss"]) > 0
    assert "validation loss" in (project.results / "summary.md").read_text()


def logged_losses(project) -> dict[str, float]:
    """The validation losses that the trainings themselves measured, after their last step."""
    metrics = project.results / "metrics"
    files = {name: metrics / f"{name}.jsonl" for name in ("sft", "moe_sft")}
    files["dense/lam~0.75"] = metrics / "weighted_trained" / "lam~0.75.jsonl"
    return {
        name: json.loads(file.read_text().splitlines()[-1])["validation_loss"]
        for name, file in files.items()
    }


def test_the_pairs_that_matter_are_compared(project):
    rows = rows_of(project.results / "comparisons.csv")
    pairs = dict.fromkeys((row["first"], row["second"]) for row in rows)
    *others, learned = NAMES
    expected = [("base", "sft"), ("base", "moe_sft"), ("sft", "moe_sft")]
    expected += [(first, learned) for first in others]
    assert list(pairs) == expected


def test_uniform_has_equal_shares(project):
    results = project.results
    manifests = [
        json.loads((results / f"{name}.manifest.json").read_text())
        for name in ("weighted_init/lam~0.75", "uniform/lam~0.75")
    ]
    card = (results / "uniform" / "lam~0.75" / "README.md").read_text()
    assert "equal shares" in card and "0.3333" in card
    assert manifests[1]["kind"] == "dense" and manifests[1]["parameters"]["template"] == "magicoder"
    weights = [
        dict(AutoModelForCausalLM.from_pretrained(results / name).named_parameters())
        for name in NAMES[-2:]
    ]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])


def test_all_fit_and_nothing_runs_again(project, run_step):
    assert project.run() == []
    done = run_step("verify", project.results / "uniform" / "lam~0.75")
    assert done.returncode == 0, done.stderr
    assert "weighted_init/lam~0.75" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("config", "rules"),
    [
        ({"sft": {"learning_rate": 1e-4}}, ["eval", "report", "sft", "summary", "validation_loss"]),
        ({"evaluation": {"models": ["base", "dense"]}}, ["report", "summary"]),
    ],
)
def test_a_change_runs_the_baseline_alone(project, config, rules):
    assert project.run("--dry-run", **config) == rules
