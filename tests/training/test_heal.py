"""Step heal: a merged model is tuned as the baseline is, on a share of the rows, or distilled."""

import shutil
from pathlib import Path

import pytest
from chains import Chain
from mixtures import varied_mixture
from plain_losses import labelled_rows, plain_parts
from trainings import learn, write_rows
from transformers import AutoTokenizer

from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.errors import UserError
from xft.data.examples import Examples

FLAGS = ["--max-steps", 4, "--per-device-train-batch-size", 12, "--learning-rate", 0.003]
WEIGHT = 0.25
KL = ["--objective", "kl", "--kl-weight", WEIGHT]


@pytest.fixture(scope="module")
def chain(tiny_llama, tmp_path_factory) -> Chain:
    """A model that was merged from a mixture whose experts differ."""
    root = tmp_path_factory.mktemp("chain")
    varied_mixture(tiny_llama, root)
    return Chain(root, base=tiny_llama, moe_sft=root / "moe_sft", data=write_rows(root))


def heal(chain, out: Path, *words) -> list[dict]:
    """The metrics of a training."""
    return learn("heal", out, *chain.words("heal"), *FLAGS, *words)


def test_with_all_rows_it_is_the_baselines_training(chain, tmp_path):
    """The same bytes, and the same metrics."""
    words = ["--base", chain["dense"], "--data", chain["data"], *FLAGS]
    expected = learn("sft", tmp_path / "sft", *words)
    assert heal(chain, tmp_path / "heal", "--share", 1) == expected
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("sft", "heal")]
    assert weights[0] == weights[1]


def test_a_distilled_model_has_the_loss_of_plain_transformers_and_its_history(chain, tmp_path):
    out, dense = tmp_path / "out", chain["dense"]
    ce, kl = plain_parts(chain["moe_sft"], dense, labelled_rows(dense, chain["data"]))
    lines = heal(chain, out, "--teacher", chain["moe_sft"], "--share", 1, *KL)
    assert [lines[0]["ce"], lines[0]["kl"]] == pytest.approx([ce, kl], rel=1e-5)
    assert lines[0]["loss"] == pytest.approx((1 - WEIGHT) * ce + WEIGHT * kl, rel=1e-5)
    assert lines[-1]["loss"] < lines[0]["loss"]

    manifest, merge = read_manifest(manifest_path(out)), read_manifest(manifest_path(dense))
    assert manifest.kind == "heal"
    assert manifest.inputs["dense"] == merge.id
    assert manifest.inputs["moe"] == merge.inputs["moe"]
    assert manifest.parameters["share"] == 1
    card = (out / "README.md").read_text()
    assert "0.75 x the cross-entropy of the responses + 0.25 x the KL divergence from" in card
    assert "shared_expert_weight 0.75" in card and "share 1" in card


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
        heal(chain, tmp_path / str(seed), "--share", 0.34, "--seed", seed)
        drawn[seed] = set(trained_on)
        trained_on.clear()
    assert [len(rows) for rows in drawn.values()] == [4, 4]
    assert drawn[1] != drawn[2]


def test_the_teacher_must_be_there_exactly_if_it_is_learned_from(chain, tmp_path):
    with pytest.raises(UserError, match=r"objective = kl: .* Name its folder in --teacher"):
        heal(chain, tmp_path / "out", *KL)
    with pytest.raises(UserError, match="with objective = ce nothing is learned from it"):
        heal(chain, tmp_path / "out", "--teacher", chain["moe_sft"])


def test_another_teacher_is_refused(chain, tiny_llama, tmp_path):
    """A model without a manifest says nothing about the mixture that it was merged from."""
    with pytest.raises(UserError, match=r"was not merged from .*/moe but from another mixture"):
        heal(chain, tmp_path / "out", *KL, "--teacher", chain["moe"])
    copy = shutil.copytree(chain["dense"], tmp_path / "copy", copy_function=shutil.copyfile)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(copy)
    with pytest.raises(UserError, match=r"has another tokenizer than \S+/copy"):
        heal(chain, tmp_path / "out", *KL, "--model", copy, "--teacher", chain["moe_sft"])
