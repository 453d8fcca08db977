"""merge.keep: which dense models stay after their evaluation."""

import csv

import pytest

from workflow_scripts.checkpoints.manifest import manifest_path, read_manifest

pytestmark = pytest.mark.slow
LAMBDAS = ["0.25", "0.75"]


@pytest.fixture(scope="module")
def swept(new_project):
    project = new_project("swept")
    project.run(merge={"lambdas": LAMBDAS, "keep": "best"})
    return project


def test_the_best_model_stays_and_no_other(swept):
    rows = list(csv.DictReader((swept.results / "summary.csv").open()))
    scores = {row["model"]: float(row["pass@1 plus"]) for row in rows if "dense" in row["model"]}
    best = max(LAMBDAS, key=lambda lam: scores[f"dense/lam~{lam}"])
    manifest = read_manifest(manifest_path(swept.results / "best"))
    assert manifest.parameters["shared_expert_weight"] == float(best)
    assert (swept.results / "best" / "model.safetensors").is_file()
    assert list(swept.results.glob("dense/*")) == []


def test_nothing_runs_again_for_the_models_that_are_gone(swept):
    assert swept.run(merge={"lambdas": LAMBDAS, "keep": "best"}) == []
    assert swept.run(merge={"lambdas": LAMBDAS, "keep": "none"}) == []


def test_a_model_that_is_gone_is_merged_again_when_it_is_asked_for(swept):
    target = "results/dense/lam~0.25.manifest.json"
    assert swept.run(target, merge={"lambdas": LAMBDAS, "keep": "all"}) == ["dense"]
    assert (swept.results / "dense" / "lam~0.25" / "model.safetensors").is_file()
