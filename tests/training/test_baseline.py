"""The dense baseline, and the validation loss: both against plain transformers."""

import json
import shutil

import pytest
import torch
from chains import Chain, run_here
from damage import change_tensors
from plain_losses import RATE, STEPS, encoded, plain_loop, plain_loss
from safetensors.torch import load_file
from trainings import ROWS, identity, learn
from transformers import AutoModelForCausalLM

from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.errors import UserError
from xft.config.sections import SftConfig
from xft.data.tokenized_rows import open_tokens

pytestmark = pytest.mark.numeric

FLAGS = ["--max-steps", STEPS, "--learning-rate", RATE]
FLAGS += ["--lr-scheduler-type", "constant_with_warmup"]
WHOLE = ["--per-device-train-batch-size", len(ROWS)]  # all rows in each step
PARTS = ["--per-device-train-batch-size", 4, "--gradient-accumulation-steps", 3]  # as well
BATCHES = ["--per-device-train-batch-size", 5, "--learning-rate", RATE]


@pytest.mark.parametrize("way", [WHOLE, [*PARTS, "--batching", "packed"]], ids=["whole", "parts"])
def test_the_baseline_learns_what_a_plain_loop_learns(tiny_llama, data, tmp_path, way):
    """Its weights decay, except norms."""
    words = ["--base", tiny_llama, "--data", data, *FLAGS, *way, "--weight-decay", 1]
    lines = learn("sft", tmp_path / "out", *words)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    norms = [value for name, value in model.named_parameters() if "norm" in name]
    others = [value for name, value in model.named_parameters() if "norm" not in name]
    groups = {"params": norms}, {"params": others, "weight_decay": 1.0}
    losses = plain_loop(model, groups, tiny_llama)
    learned = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, expected in model.named_parameters():
        torch.testing.assert_close(learned.get_parameter(name), expected, atol=2e-5, rtol=1e-4)
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-5)
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize(("held_out", "of_epoch"), [(0, 3), (2, 2)])
def test_at_equal_flops_the_baseline_takes_more_steps(
    tiny_llama, data, tmp_path, held_out, of_epoch
):
    """Those of four epochs of a mixture's tuning. Rows that are held out make no steps."""
    shape = ["--match-flops", "--num-experts", 4, "--num-experts-per-tok", 2]
    flags = ["--data", data, *shape, "--num-train-epochs", 4, *BATCHES]
    flags += ["--validation-rows", held_out]
    out = tmp_path / "sft"
    lines = learn("sft", out, "--base", tiny_llama, *flags, "--warmup-steps", 3)
    steps = sum("loss" in line for line in lines)
    stated = read_manifest(manifest_path(out)).parameters
    ratio = stated["flops_ratio"]
    assert 1 < ratio < 2
    assert stated["max_steps"] == steps == round(4 * of_epoch * ratio) > 4 * of_epoch
    assert stated["warmup_steps"] == round(3 * ratio)
    assert f"- equal FLOPs: {ratio:.4g} times" in (out / "README.md").read_text()


def test_steps_and_warm_up_are_multiplied():
    for options, steps, warmup in (
        ({"max_steps": 4, "num_train_epochs": 9, "warmup_steps": 2}, 9, 4),
        ({"num_train_epochs": 1.5, "per_device_train_batch_size": 5}, 11, 0),  # ceil(1.5 x 3) x 2.2
        ({"num_train_epochs": 1, "gradient_accumulation_steps": 3}, 2, 0),
    ):
        multiplied = SftConfig(**options).with_steps_times(2.2, rows=12)
        assert (multiplied.max_steps, multiplied.warmup_steps) == (steps, warmup)


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_all_weights_learn_and_what_is_none_stays_as_it_is(prefix, tiny_llama, data, tmp_path):
    """Llama 2 and its kin keep the frequencies of their rotary embeddings in the checkpoint.

    A model that was saved without its class for language has names without the prefix.
    """
    frequencies = f"{prefix}layers.0.self_attn.rotary_emb.inv_freq"
    old = shutil.copytree(tiny_llama, tmp_path / "old")

    def rename(tensors: dict) -> dict:
        named = {name.replace("model.", prefix, 1): tensors[name] for name in tensors}
        return named | {frequencies: torch.arange(4.0)}

    change_tensors(old, rename)
    learn("sft", tmp_path / "sft", "--base", old, "--data", data, *FLAGS, *WHOLE)
    tuned, weights = (load_file(p / "model.safetensors") for p in (tmp_path / "sft", old))
    assert tuned.keys() == weights.keys()
    assert [name for name in tuned if tuned[name].equal(weights[name])] == [frequencies]


@pytest.fixture(scope="module")
def held_out(tiny_llama, data, tmp_path_factory):
    """A base with a manifest, and tokens with five rows held out."""
    folder = tmp_path_factory.mktemp("held_out")
    options = {"base": ["--model", tiny_llama], "tokens": ["--validation-rows", 5]}
    assert Chain(folder, options, data=data)["tokens"].is_dir()
    return folder


def test_the_loss_on_held_out_rows_is_that_of_plain_transformers(held_out, tiny_llama, tmp_path):
    base, out = held_out / "base", tmp_path / "validation" / "base.json"
    flags = ["--data", held_out / "tokens", "--out", out, "--threads", 1]
    run_here("validation_loss", ["--model", base, *flags])
    result = json.loads(out.read_text())
    numbers = [row["row"] for row in open_tokens(held_out / "tokens", base)[0].validation]
    model, rows = AutoModelForCausalLM.from_pretrained(tiny_llama), encoded(tiny_llama)
    chosen = [rows[number - 1] for number in numbers]
    with torch.no_grad():
        expected = plain_loss(model, chosen).item()
        by_row = [plain_loss(model, [row]).item() for row in chosen]
    assert len(numbers) == 5
    assert result["loss"] == pytest.approx(expected, rel=1e-6)
    assert [row["loss"] for row in result["rows"]] == pytest.approx(by_row, rel=1e-6)
    assert [row["tokens"] for row in result["rows"]] == [len(ids) - n for ids, n in chosen]

    manifest = read_manifest(manifest_path(out))
    assert (manifest.kind, manifest.parameters) == ("validation", {"threads": 1})
    assert manifest.inputs == {"model": identity(base), "tokens": identity(held_out / "tokens")}


def test_a_loss_that_is_nan_is_refused(held_out, tiny_llama, tmp_path):
    diverged = shutil.copytree(tiny_llama, tmp_path / "diverged")
    change_tensors(diverged, lambda t: t | {"model.norm.weight": torch.full((32,), 3e38)})
    flags = ["--data", held_out / "tokens", "--out", tmp_path / "loss.json"]
    with pytest.raises(UserError, match=r"diverged: the loss is nan\."):
        run_here("validation_loss", ["--model", diverged, *flags])
    assert not (tmp_path / "loss.json").exists()


def test_without_held_out_rows_there_is_no_such_loss(tiny_llama, data, tmp_path):
    tokens = Chain(tmp_path, base=tiny_llama, data=data)["tokens"]
    flags = ["--model", tiny_llama, "--data", tokens, "--out", tmp_path / "loss.json"]
    with pytest.raises(UserError, match=r"holds no validation rows\. Set data\.validation_rows"):
        run_here("validation_loss", [*flags])
