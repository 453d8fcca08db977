"""Step heal: a merged model is tuned as the baseline is, on a share of the rows, or distilled."""

import json
import os
import signal
from pathlib import Path

import pytest
from chains import Chain
from mixtures import varied_mixture
from plain_losses import labelled_rows, plain_parts
from processes import run_for
from safetensors.torch import load_file
from transformers import AutoTokenizer

from workflow_scripts import heal, sft
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.checkpoints.reader import Checkpoint
from xft.common.errors import UserError
from xft.data.examples import Examples
from xft.training.callbacks import ProgressCallback

ROWS = [
    {"instruction": f"Add {n} to x.", "response": f"def add(x):\n    return x + {n}" * (1 + n % 3)}
    for n in range(12)
]
FLAGS = ["--max-steps", 4, "--per-device-train-batch-size", 12, "--learning-rate", 0.003]
WEIGHT = 0.25
KL = ["--objective", "kl", "--kl-weight", WEIGHT]


@pytest.fixture(scope="module")
def chain(tiny_llama, tmp_path_factory) -> Chain:
    """A model that was merged from a mixture whose experts differ."""
    root = tmp_path_factory.mktemp("chain")
    rows = root / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    varied_mixture(tiny_llama, root)
    return Chain(root, base=tiny_llama, moe_sft=root / "moe_sft", data=rows)


def run(step, out: Path, *words) -> list[dict]:
    """The metrics of a training."""
    metrics = out.with_suffix(".jsonl")
    step.main([str(word) for word in [*words, *FLAGS, "--metrics", metrics, "--out", out]])
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def test_with_all_rows_it_is_the_baselines_training(chain, tmp_path):
    """The same bytes, and the same metrics."""
    words = ["--data", chain["data"]]
    expected = run(sft, tmp_path / "sft", "--base", chain["dense"], *words)
    lines = run(heal, tmp_path / "heal", "--model", chain["dense"], *words, "--share", 1)
    assert lines == expected
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("sft", "heal")]
    assert weights[0] == weights[1]


def test_a_distilled_model_has_the_loss_of_plain_transformers(chain, tmp_path):
    rows = labelled_rows(chain["dense"], chain["data"])
    ce, kl = plain_parts(chain["moe_sft"], chain["dense"], rows)
    words = [*chain.words("heal"), "--teacher", chain["moe_sft"], "--share", 1, *KL]
    lines = run(heal, tmp_path / "out", *words)
    assert [lines[0]["ce"], lines[0]["kl"]] == pytest.approx([ce, kl], rel=1e-5)
    assert lines[0]["loss"] == pytest.approx((1 - WEIGHT) * ce + WEIGHT * kl, rel=1e-5)
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_the_mixtures_distribution_can_be_learned_alone(chain, tmp_path):
    words = [*chain.words("heal"), "--teacher", chain["moe_sft"], "--share", 1]
    lines = run(heal, tmp_path / "out", *words, "--objective", "kl", "--kl-weight", 1)
    assert all(line["loss"] == line["kl"] for line in lines)
    assert lines[-1]["kl"] < 0.7 * lines[0]["kl"]


def test_the_artifact_is_a_dense_model_with_its_history(chain, tmp_path):
    out, dense = tmp_path / "out", chain["dense"]
    run(heal, out, *chain.words("heal"), "--teacher", chain["moe_sft"], *KL, "--share", 0.5)
    before, after = Checkpoint(dense), Checkpoint(out)
    assert after.config == before.config
    assert [(name, after.dtype(name)) for name in after.names] == [
        (name, before.dtype(name)) for name in before.names
    ]
    manifest, merge = read_manifest(manifest_path(out)), read_manifest(manifest_path(dense))
    assert manifest.kind == manifest.recipe.step == "heal"
    assert manifest.inputs["dense"] == merge.id
    assert manifest.inputs["moe"] == merge.inputs["moe"]
    assert manifest.recipe.options["heal.share"] == manifest.parameters["share"] == 0.5
    card = (out / "README.md").read_text()
    assert "0.75 x the cross-entropy of the responses + 0.25 x the KL divergence from" in card
    assert "shared_expert_weight 0.75" in card and "share 0.5" in card


@pytest.fixture
def trained_on(monkeypatch) -> list[int]:
    """The numbers of the rows that are read."""
    rows, read = [], Examples.__getitem__

    def noted(self, index):
        example = read(self, index)
        rows.append(example["row"])
        return example

    monkeypatch.setattr(Examples, "__getitem__", noted)
    return rows


def test_the_seed_draws_the_share(chain, tmp_path, trained_on):
    drawn = {}
    for seed in (1, 2):
        run(heal, tmp_path / str(seed), *chain.words("heal"), "--share", 0.34, "--seed", seed)
        drawn[seed] = set(trained_on)
        trained_on.clear()
    assert [len(rows) for rows in drawn.values()] == [4, 4]
    assert drawn[1] != drawn[2]


def test_a_stopped_training_goes_on_to_the_same_bytes(chain, tmp_path, monkeypatch):
    words = [*chain.words("heal"), "--teacher", chain["moe_sft"], *KL, "--share", 0.7]
    words += ["--batching", "packed", "--gradient-accumulation-steps", 2]
    lines = run(heal, tmp_path / "whole", *words)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(ProgressCallback, "on_step_begin", on_step_begin)
        run(heal, tmp_path / "out", *words)
    assert list(tmp_path.glob(".out.training/*/checkpoint-3"))
    assert run(heal, tmp_path / "out", *words) == lines
    ids = [read_manifest(manifest_path(tmp_path / name)).id for name in ("whole", "out")]
    assert ids[0] == ids[1]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(chain, tmp_path):
    words = [*chain.words("heal"), "--teacher", chain["moe_sft"], *KL, "--share", 1, *FLAGS]
    one, two = tmp_path / "one", tmp_path / "two"
    expected = run(heal, one, *words)
    launch = ["--launch", "ddp", "--processes", 2, "--per-device-train-batch-size", 6]
    metrics = two.with_suffix(".jsonl")
    words = [*words, *launch, "--metrics", metrics, "--out", two]
    assert run_for("heal", [str(word) for word in words], count=2)
    for line, other in zip(metrics.read_text().splitlines(), expected, strict=True):
        for key in ("loss", "ce", "kl"):
            assert json.loads(line)[key] == pytest.approx(other[key], rel=1e-4), key
    before, after = (load_file(path / "model.safetensors") for path in (one, two))
    for name, weight in before.items():
        assert (after[name] - weight).abs().max() <= 1e-4


def test_the_teacher_must_be_there_exactly_if_it_is_learned_from(chain, tmp_path):
    with pytest.raises(UserError, match=r"objective = kl: .* Name its folder in --teacher"):
        run(heal, tmp_path / "out", *chain.words("heal"), *KL)
    with pytest.raises(UserError, match="with objective = ce nothing is learned from it"):
        run(heal, tmp_path / "out", *chain.words("heal"), "--teacher", chain["moe_sft"])


def test_a_teacher_that_the_model_is_not_from_is_refused(chain, tmp_path):
    words = [*chain.words("heal"), *KL, "--teacher"]
    with pytest.raises(UserError, match=r"was not merged from .*/moe but from another mixture"):
        run(heal, tmp_path / "out", *words, chain["moe"])


def test_a_teacher_with_another_tokenizer_is_refused(chain, tiny_llama, tmp_path):
    """A model without a manifest says nothing about the mixture that it was merged from."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_tokens(["another"])
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in chain["dense"].iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    tokenizer.save_pretrained(copy)
    words = ["--model", copy, "--data", chain["data"], *KL, "--teacher", chain["moe_sft"]]
    with pytest.raises(UserError, match=r"has another tokenizer than \S+/copy"):
        run(heal, tmp_path / "out", *words)
