"""merge.keep: which dense models stay after their evaluation."""

import csv

import pytest

from xft.artifacts.manifest import manifest_path, read_manifest

pytestmark = pytest.mark.slow
LAMBDAS = ["0.25", "0.75"]


def test_the_best_model_stays_and_others_are_merged_again_when_they_are_asked_for(new_project):
    project = new_project("swept")
    sweep = {"lambdas": LAMBDAS, "keep": "best"}
    project.run(merge=sweep)
    rows = list(csv.DictReader((project.results / "summary.csv").open()))
    scores = {row["model"]: float(row["pass@1 plus"]) for row in rows if "dense" in row["model"]}
    best = max(LAMBDAS, key=lambda lam: scores[f"dense/lam~{lam}"])
    manifest = read_manifest(manifest_path(project.results / "best"))
    assert manifest.parameters["shared_expert_weight"] == float(best)
    assert (project.results / "best" / "model.safetensors").is_file()
    assert list(project.results.glob("dense/*")) == []

    for keep in ("best", "none"):
        assert project.run(merge=sweep | {"keep": keep}) == []

    target = "results/dense/lam~0.25.manifest.json"
    assert project.run(target, merge=sweep | {"keep": "all"}) == ["dense"]
    assert (project.results / "dense" / "lam~0.25" / "model.safetensors").is_file()
