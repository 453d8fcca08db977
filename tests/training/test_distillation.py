"""Distillation of the mixing coefficients, and step heal, which distils the merged model.

KL is that of plain transformers' logits.
"""

import shutil
from pathlib import Path

import pytest
from plain_losses import encoded, plain_parts
from trainings import learn
from transformers import AutoTokenizer

from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.errors import UserError
from xft.data.examples import Examples

pytestmark = pytest.mark.numeric

WEIGHT = 0.25
KL = ["--objective", "kl", "--kl-weight", WEIGHT]
WHOLE = ["--per-device-train-batch-size", 12]  # of the rows
HALF = ["--per-device-train-batch-size", 4, "--gradient-accumulation-steps", 3]


def heal(chain, out: Path, *flags) -> list[dict]:
    options = ["--max-steps", 4, "--learning-rate", 0.003, *WHOLE, *flags]
    return learn("heal", out, *chain.words("heal"), *options)


def test_the_loss_holds_the_divergence_of_plain_transformers(chain, tmp_path):
    options = ["--max-steps", 2, "--learning-rate", 0.1, *KL, *HALF, "--batching", "packed"]
    words = chain.words("weighted_trained")
    lines = learn("weighted_trained", tmp_path / "out", *words, *options)
    check_first(lines[0], *parts(chain))
    for line in lines:
        loss = (1 - WEIGHT) * line["ce"] + WEIGHT * line["kl"]
        assert line["loss"] == pytest.approx(loss, rel=1e-6)


def parts(chain) -> tuple[float, float]:
    """CE and KL of the merged model, from which both steps start."""
    ce, kl = plain_parts(chain["moe_sft"], chain["dense"], encoded(chain["base"]))
    assert kl > 1e-3
    return ce, kl


def check_first(line: dict, ce: float, kl: float) -> None:
    assert [line["ce"], line["kl"]] == pytest.approx([ce, kl], rel=1e-5)


def test_heal_with_all_rows_is_the_baselines_training(chain, tmp_path):
    """The same bytes, and the same metrics."""
    words = ["--base", chain["dense"], "--data", chain["data"], *WHOLE]
    words += ["--max-steps", 4, "--learning-rate", 0.003]
    expected = learn("sft", tmp_path / "sft", *words)
    assert heal(chain, tmp_path / "heal", "--share", 1) == expected
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("sft", "heal")]
    assert weights[0] == weights[1]


def test_a_healed_model_has_the_loss_of_plain_transformers_and_its_history(chain, tmp_path):
    out, dense = tmp_path / "out", chain["dense"]
    lines = heal(chain, out, "--teacher", chain["moe_sft"], "--share", 1, *KL)
    check_first(lines[0], *parts(chain))
    assert lines[-1]["loss"] < lines[0]["loss"]

    manifest, merge = read_manifest(manifest_path(out)), read_manifest(manifest_path(dense))
    assert manifest.kind == "heal"
    assert manifest.inputs["dense"] == merge.id
    assert manifest.inputs["moe"] == merge.inputs["moe"]
    assert manifest.parameters["share"] == 1
    assert "shared_expert_weight 0.75" in (out / "README.md").read_text()


def test_the_seed_draws_the_share(chain, tmp_path, monkeypatch):
    drawn, read = {}, Examples.__getitem__

    def noted(self, index):
        example = read(self, index)
        drawn[seed].add(example["row"])
        return example

    monkeypatch.setattr(Examples, "__getitem__", noted)
    for seed in (1, 2):
        drawn[seed] = set()
        heal(chain, tmp_path / str(seed), "--share", 0.34, "--seed", seed)
    assert [len(rows) for rows in drawn.values()] == [4, 4]
    assert drawn[1] != drawn[2]


def test_another_teacher_is_refused_and_one_that_is_not_learned_from(chain, tiny_llama, tmp_path):
    """A model without a manifest says nothing about the mixture that it was merged from."""
    for flags in (KL, ["--teacher", chain["moe_sft"]]):
        with pytest.raises(UserError, match=r"--teacher .* objective = kl. Give both of them, or"):
            heal(chain, tmp_path / "out", *flags)
    with pytest.raises(UserError, match=r"was not merged from .*/moe but from another mixture"):
        heal(chain, tmp_path / "out", *KL, "--teacher", chain["moe"])
    copy = shutil.copytree(chain["dense"], tmp_path / "copy", copy_function=shutil.copyfile)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(copy)
    with pytest.raises(UserError, match=r"has another tokenizer than \S+/copy"):
        heal(chain, tmp_path / "out", *KL, "--model", copy, "--teacher", chain["moe_sft"])
