"""Variants and seeds run end to end, share what they agree on, and add and lose runs."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from project import Project

from xft.config.runs import overlaid

pytestmark = pytest.mark.slow
MODELS = ["base", "sft", "sft_flops", "soup", "moe_sft", "uniform", "experts_only", "dense", "heal"]
VARIANTS = {
    "xft": {},
    "vanilla": {"moe": {"shared_expert": False}, "evaluation": {"models": ["base", "moe_sft"]}},
    "usage": {"mixing": {"init": "usage", "init_rows": 4, "objective": "kl"}},
}
STOCK = {"merge": {"method": "model_stock"}}
USAGE = "mixing.init~usage/mixing.init_rows~4/mixing.objective~kl"


@pytest.fixture(scope="module")
def project(new_project):
    """A project in which two seeds of three variants have run."""
    project = new_project("sweep")
    project.overlay = project.overlay | {
        "moe": {"num_experts": 3, "num_experts_per_tok": 2},
        "data": {"limit": 64, "validation_rows": 6},
        "evaluation": project.overlay["evaluation"] | {"models": MODELS},
        "merge": {"keep": "best"},
        "heal": {"max_steps": 2, "objective": "kl"},
        "seeds": [42, 43],
        "variants": VARIANTS,
    }
    project.first = Counter(project.run())
    return project


def rows_of(file) -> list[dict]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_runs_share_every_stage_on_which_they_agree(project):
    expected = dict.fromkeys(["base", "tokens", "ground_truth", "soup", "summary", "report"], 1)
    expected |= dict.fromkeys(["sft", "sft_flops", "ffn", "diversity", "uniform", "best"], 2)
    expected |= dict.fromkeys(["moe", "moe_sft"], 4)  # with and without a shared expert
    expected |= dict.fromkeys(["weighted_init", "weighted_trained", "dense", "heal"], 4)
    expected["experts_only"] = 4  # two routed experts
    assert {rule: project.first[rule] for rule in expected} == expected
    assert project.run() == []


def test_each_artifact_fits_its_manifest(project, run_step):
    done = run_step("verify", project.results, "--full")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_summary_shows_means_over_seeds(project):
    rows = rows_of(project.results / "summary.csv")
    seeds = Counter((row["model"], row["variant"]) for row in rows)
    assert seeds["base", ""] == seeds["soup", ""] == 1
    assert seeds["dense/lam~0.75", ""] == seeds["dense/lam~0.75", "usage"] == 2
    assert seeds["moe_sft", "vanilla"] == seeds["experts_only/expert~2/lam~0.75", ""] == 2
    text = (project.results / "summary.md").read_text()
    assert "| moe_sft (vanilla)" in text and "±" in text
    assert "The best merge of each mixture, chosen by the lowest loss on the held-out rows" in text


def test_the_best_merge_of_each_mixture_stays(project):
    kept = {
        str(place.parent.relative_to(project.results)) for place in project.results.rglob("best")
    }
    assert kept == {".", "seed~43"}
    assert not any(project.results.rglob("dense/lam~0.75/model.safetensors"))


@pytest.mark.parametrize(
    ("changed", "rules"),
    [
        ({"variants": VARIANTS | {"stock": STOCK}}, {"dense": 2, "heal": 2, "weighted_init": 0}),
        ({"seeds": [42, 43, 44]}, {"sft": 1, "moe": 2, "moe_sft": 2, "dense": 2, "soup": 1}),
        ({"variants": {"xft": {}, "vanilla": VARIANTS["vanilla"]}}, {}),
        ({"seeds": [42, 43], "variants": {}}, {}),
    ],
    ids=["a variant more", "a seed more", "a variant less", "no variants"],
)
def test_only_what_is_new_runs(project, changed, rules):
    ran = Counter(Project(project.folder, project.overlay | changed).run("--dry-run"))
    assert {rule: ran[rule] for rule in ["base", "tokens", "summary", *rules]} == {
        **{"base": 0, "tokens": 0, "summary": 1},
        **rules,
    }
    if not rules:
        assert ran.keys() <= {"summary", "report", "best", "dense"}


def test_a_variant_alone_has_the_same_bytes(project, new_project, file_hashes):
    alone = new_project("alone")
    keys = overlaid(project.overlay, VARIANTS["usage"]) | {"seed": 43}
    alone.overlay = {key: keys[key] for key in keys.keys() - {"seeds", "variants"}}
    models = [model for model in MODELS if model != "soup"]
    alone.overlay["evaluation"] = keys["evaluation"] | {"models": models}
    alone.run(
        "results/weighted_trained/lam~0.75.manifest.json", "results/heal/lam~0.75.manifest.json"
    )
    for name in ("weighted_trained/lam~0.75", "heal/lam~0.75"):
        swept = project.results / USAGE / "seed~43" / name
        assert file_hashes(alone.results / name) == file_hashes(swept)
        manifests = [Path(f"{place}.manifest.json") for place in (alone.results / name, swept)]
        assert manifests[0].read_text() == manifests[1].read_text()
