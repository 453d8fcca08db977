"""The real workflow on the embedded base: what it makes, what it makes again, what it refuses."""

import json

import pytest
import torch
from project import RULE
from transformers import AutoModelForCausalLM

from xft.conversions.mixing_artifact import open_mixing, open_sources
from xft.modeling.mixing import Mixing, MixingLogits

LAMBDA_CHAIN = ["dense", "eval", "report", "summary", "weighted_init", "weighted_trained"]
TUNED = ["moe_sft", "ffn", "diversity", *LAMBDA_CHAIN, "eval"]
ALL = ["base", "tokens", "ground_truth", "moe", *TUNED, "eval"]


@pytest.fixture
def project(finished):
    """A project in which the whole workflow has run once. Read only."""
    return finished


def test_each_rule_runs_once_and_not_again(project):
    assert json.loads((project.folder / "ran.json").read_text()) == sorted(ALL)
    assert project.run() == []


def test_each_artifact_fits_its_manifest(project, call_step):
    done = call_step("verify", project.results, "--full")
    assert done.returncode == 0
    assert done.stderr.strip().endswith("16 of 16 artifacts fit their manifests")


def test_no_rule_changes_its_inputs(project, repository, file_hashes):
    """What was given. That no later rule touches an artifact, test_another_lambda_... shows."""
    given, original = (
        {name: sha for name, sha in file_hashes(root / "resources").items() if ".pyc" not in name}
        for root in (project.folder, repository)
    )
    assert given == original


def test_the_upcycled_base_is_the_base(project):
    dense = AutoModelForCausalLM.from_pretrained(project.results / "base")
    upcycled = AutoModelForCausalLM.from_pretrained(project.results / "moe")
    ids = torch.randint(3, 700, (2, 50))
    with torch.no_grad():
        assert (dense(ids).logits - upcycled(ids).logits).abs().max() <= 1e-5


def test_dense_is_the_mixing_model(project):
    results = project.results
    sources = open_sources(results / "moe_sft", results / "ffn")
    learned = open_mixing(results / "weighted_trained" / "lam~0.75", sources)
    logits = MixingLogits(learned.alpha, None, 0.75)
    mixing = Mixing(sources.moe.checkpoint, sources.ffn.checkpoint, logits)
    dense = AutoModelForCausalLM.from_pretrained(results / "dense" / "lam~0.75")
    ids = torch.randint(3, 700, (2, 50))
    with torch.no_grad():
        assert (dense(ids).logits - mixing.model(ids).logits).abs().max() <= 1e-5


def test_dense_config_is_the_bases(project):
    base, dense = (
        json.loads((project.results / name / "config.json").read_text())
        for name in ("base", "dense/lam~0.75")
    )
    assert dense == base


def test_summary_holds_each_model_once(project):
    lines = (project.results / "summary.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["model", "base", "moe_sft", "dense/lam~0.75"]


def test_a_run_prints_a_line_for_each_job_and_ends_with_the_table_and_the_report(finished_copy):
    done = finished_copy.snakemake("--forcerun", "report")
    shown = done.stdout + done.stderr
    assert "report: results/report.html (log: results/logs/report.log)\n" in shown
    assert "    resources: " not in shown.partition("localrule all:")[0]
    assert (finished_copy.results / "summary.md").read_text() in done.stdout
    assert done.stdout.rstrip().endswith("for a browser: results/report.html")


def test_another_lambda_runs_its_chain_and_going_back_only_the_summary(
    finished_copy, artifact_hashes
):
    copy = finished_copy
    before = artifact_hashes(copy)
    assert copy.run(merge={"lambdas": [0.85]}) == LAMBDA_CHAIN
    after = artifact_hashes(copy)
    for name, sha in before.items():
        assert after[name] == sha or name.startswith(("summary.", "comparisons.", "runs."))
    assert copy.run(merge={"lambdas": ["0.750"]}) == ["report", "summary"]
    assert artifact_hashes(copy)["summary.csv"] == before["summary.csv"]
    assert copy.run(merge={"lambdas": [0.75, 0.85]}) == ["report", "summary"]


@pytest.mark.parametrize(
    ("config", "rules"),
    [
        ({"evaluation": {"base_prompt": "completion"}}, ["eval", "report", "summary"]),
        (
            {"mixing": {"learning_rate": 0.5}},
            ["dense", "eval", "report", "summary", "weighted_trained"],
        ),
        ({"moe": {"upcycled_layers": [0]}}, ["moe", *TUNED]),
    ],
)
def test_a_changed_value_runs_what_depends_on_it(project, config, rules):
    """tests/slow/test_caching_table.py takes every key."""
    assert project.run("--dry-run", **config) == sorted(rules)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"merge": {"lambdas": [1.5]}},
            'merge.lambdas[0] = "1.5": must be a decimal number from 0 to 1',
        ),
        ({"base": {"model": "no/such/folder"}}, "base.model: there is no folder no/such/folder"),
        ({"data": {"train": "no.jsonl"}}, "no.jsonl"),
    ],
)
def test_a_bad_config_stops_with_its_key_and_loses_nothing(
    project, artifact_hashes, config, message
):
    before = artifact_hashes(project)
    done = project.snakemake(**config)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert artifact_hashes(project) == before


def test_a_lambda_that_is_not_canonical_is_refused(project):
    done = project.snakemake("results/dense/lam~0.750.manifest.json")
    assert done.returncode != 0
    assert "MissingRuleException" in done.stdout + done.stderr


def test_a_failed_job_shows_its_message(new_project):
    project = new_project("failed")
    rows = project.folder / "rows.jsonl"
    rows.write_text('{"instruction": "a", "response": "b"}\n{"instruction": "a"}\n')
    target = "results/tokens.manifest.json"
    done = project.snakemake(target, data={"train": "rows.jsonl"})
    assert done.returncode != 0
    assert "rows.jsonl, line 2: no column 'response'" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (project.results / "tokens").exists()
    assert (project.results / "base.manifest.json").exists()


def test_the_published_recipe_plans_the_published_steps(new_project):
    project = new_project("recipe")
    project.overlay = {}
    done = project.snakemake("-n", "-p", "--configfile", "recipes/deepseek-coder-1.3b.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout + done.stderr
    assert sorted(set(RULE.findall(output)) - {"all"}) == sorted(
        {*ALL, "fetch_data", "fetch_problems", "sft", "uniform"}
    )
    for words in (
        "base --model=deepseek-ai/deepseek-coder-1.3b-base --revision=c919139c",
        "--num-experts=8 --num-experts-per-tok=6",
        "--num-train-epochs=4.0 --per-device-train-batch-size=2 --gradient-accumulation-steps=32 "
        "--learning-rate=5e-05 --lr-scheduler-type=linear --warmup-steps=500 --optim=adafactor",
        "--num-train-epochs=1.0 --per-device-train-batch-size=2 --gradient-accumulation-steps=32 "
        "--learning-rate=1e-05 --lr-scheduler-type=linear --warmup-steps=125 --optim=adafactor",
        "--max-length=1024",
        "--lam 0.75",
    ):
        assert words in output
