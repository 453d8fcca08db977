"""Training: the loss of a step, its parts, and that the same seed gives the same bytes."""

import math

import pytest
import torch
from chains import Chain
from safetensors.torch import load_file
from trainings import identity, learn, lines_of, random_rows, write_rows
from transformers import AutoModelForCausalLM

from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common import optional
from xft.common.errors import UserError
from xft.config.sections import MoeSftConfig
from xft.training.checkpoints import Checkpoints
from xft.training.trainer import Training, train

OPTIONS = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
}
FLAGS = ["--max-steps", 3, "--per-device-train-batch-size", 4, "--learning-rate", 0.01]
ROWS = random_rows([9, 17, 12, 7, 21, 14, 8, 19])


@pytest.fixture(scope="module")
def upcycled(tiny_llama, tmp_path_factory):
    return Chain(tmp_path_factory.mktemp("training"), base=tiny_llama)["moe"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data"))


def tune(upcycled, data, out, *flags) -> list[float]:
    """The losses of a training."""
    words = ["--moe", upcycled, "--data", data, *FLAGS, *flags]
    return [line["loss"] for line in learn("moe_sft", out, *words)]


def train_here(model, tokenizer, out, **changes) -> list[float]:
    """The losses of a training on ROWS."""
    options, checkpoints = MoeSftConfig(**OPTIONS | changes), Checkpoints(out, "none", math.inf)
    metrics = out.with_suffix(".jsonl")
    train(Training(model, ROWS, tokenizer, options, 0, checkpoints, metrics_file=metrics))
    return [line["loss"] for line in lines_of(out)]


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        (["--max-steps", "3"], 3),
        (["--num-train-epochs", "2", "--per-device-train-batch-size", "6"], 4),
    ],
)
def test_a_warm_up_longer_than_the_training_stops_before_it(upcycled, data, tmp_path, flags, steps):
    out, words = tmp_path / "out", ["--moe", upcycled, "--data", data, *flags]
    with pytest.raises(UserError, match=f"warmup_steps = 5: the training has {steps} steps, and"):
        learn("moe_sft", out, *words, "--warmup-steps", 5)
    assert not out.exists()


def test_loss_is_the_mean_over_the_response_tokens_plus_the_balance_loss(
    upcycled, tokenizer, tmp_path
):
    model = AutoModelForCausalLM.from_pretrained(upcycled)
    model.config.balance_loss_coef = 0.0
    total, count = 0.0, 0
    with torch.no_grad():
        for row in ROWS:
            ids = torch.tensor([row["input_ids"]])
            logits = model(ids).logits[0, 3:-1]
            total += torch.nn.functional.cross_entropy(logits, ids[0, 4:], reduction="sum").item()
            count += ids.shape[1] - 4
    sizes = {"max_steps": 1, "per_device_train_batch_size": 8}
    losses = train_here(model, tokenizer, tmp_path / "out", **sizes)
    assert losses[0] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("balance_loss_coef", [0.0, 0.01])
def test_accumulation_gives_the_same_losses_and_weights(
    upcycled, tokenizer, tmp_path, balance_loss_coef
):
    results = []
    for batch, accumulation in ((8, 1), (4, 2)):
        model = AutoModelForCausalLM.from_pretrained(upcycled)
        model.config.balance_loss_coef = balance_loss_coef
        for block in model.moe_blocks:
            block.router.noise = None
        sizes = {
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
        }
        losses = train_here(model, tokenizer, tmp_path / f"{batch}", **sizes)
        results.append((losses, model.model.embed_tokens.weight.detach()))
    (one, weights), (other, other_weights) = results
    # The balance loss is one of each micro-batch: it differs, by little.
    tolerance = 1e-5 if balance_loss_coef == 0 else 1e-3
    assert one == pytest.approx(other, rel=tolerance)
    if balance_loss_coef == 0:
        torch.testing.assert_close(weights, other_weights, atol=1e-5, rtol=1e-4)


def test_same_seed_same_bytes_another_seed_others(upcycled, data, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tune(upcycled, data, tmp_path / name, "--seed", seed)
    a, b, c = (identity(tmp_path / name) for name in "abc")
    assert a == b != c


def test_tuned_mixture_loads_and_has_learned(upcycled, data, tmp_path):
    out = tmp_path / "out"
    losses = tune(upcycled, data, out, "--max-steps", 12)
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    last = lines_of(out)[-1]
    for name in ("load", "importance"):  # two layers, of three routed experts each
        assert [sum(layer) for layer in last[name]] == pytest.approx([1, 1], abs=2e-4)
        assert [len(layer) for layer in last[name]] == [3, 3]
    assert all(0 < entropy <= round(math.log(3), 4) for entropy in last["entropy"])
    assert len(last["noise_scale"]) == 2
    assert all(0 < share < 1 for share in last["noise_changed"])
    model = AutoModelForCausalLM.from_pretrained(out)
    before = AutoModelForCausalLM.from_pretrained(upcycled)
    assert model.config.to_dict() == before.config.to_dict()
    changed = {
        name
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter, before.get_parameter(name))
    }
    assert changed == {name for name, _ in model.named_parameters()}


def test_mixing_learns_its_coefficients_and_nothing_else(upcycled, data, tmp_path, file_hashes):
    options = {"moe_sft": [*FLAGS, "--max-steps", 6], "weighted_trained": FLAGS}
    words = Chain(tmp_path, options, moe=upcycled, data=data).words("weighted_trained")
    before = file_hashes(tmp_path)
    for out in ("one", "two"):
        lines = learn("weighted_trained", tmp_path / out, *words)
    after = file_hashes(tmp_path)
    assert {name: after[name] for name in before} == before
    assert after["one/model.safetensors"] == after["two/model.safetensors"]
    assert after["one.manifest.json"] == after["two.manifest.json"]
    shares = torch.tensor(lines[-1]["shares"])
    assert shares.shape == (2, 1, 3)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 1))
    assert (shares - 1 / 3).abs().max() > 1e-3


def test_other_forms_of_adamw_learn_what_the_fused_one_learns(upcycled, data, tmp_path):
    fused, plain, eight_bits = (
        tune(upcycled, data, tmp_path / name, "--optim", name, "--learning-rate", 1e-3)
        for name in ("adamw_torch_fused", "adamw_torch", "adamw_8bit")
    )
    assert plain == pytest.approx(fused, rel=1e-4)
    assert eight_bits == pytest.approx(fused, rel=1e-4)
    assert eight_bits != fused  # 8 bits round


def test_an_optimiser_that_is_not_installed_is_refused_first(tmp_path, monkeypatch):
    monkeypatch.setitem(optional.PACKAGES, "adamw_8bit", ("no-such-package",))
    with pytest.raises(UserError, match=r"^adamw_8bit needs the package no-such-package.* install"):
        tune("nowhere", "nothing", tmp_path / "out", "--optim", "adamw_8bit")


def test_wsd_is_constant_and_falls_in_the_last_tenth(upcycled, data, tmp_path):
    wsd = ["--lr-scheduler-type", "warmup_stable_decay", "--max-steps", 20, "--warmup-steps", 4]
    tune(upcycled, data, tmp_path / "out", *wsd)
    rates = [line["learning_rate"] for line in lines_of(tmp_path / "out")]
    warm_up, decay = [0.0, 0.0025, 0.005, 0.0075], [0.01, 0.005]
    assert rates == pytest.approx(warm_up + [0.01] * 14 + decay)


def test_pure_bf16_loses_what_master_weights_keep(upcycled, data, tmp_path):
    """Each starts from the same bf16 values; a small rate moves few of those."""
    before = AutoModelForCausalLM.from_pretrained(upcycled, dtype=torch.bfloat16)
    changed = {}
    for precision in ("bf16", "bf16_pure"):
        out, flags = tmp_path / precision, ["--learning-rate", 1e-4, "--max-steps", 1]
        tune(upcycled, data, out, "--precision", precision, *flags, "--warmup-steps", 0)
        after = dict(AutoModelForCausalLM.from_pretrained(out).named_parameters())
        different = sum(
            (after[name] != parameter.float()).sum().item()
            for name, parameter in before.named_parameters()
        )
        changed[precision] = different / sum(parameter.numel() for parameter in after.values())
        assert read_manifest(manifest_path(out)).parameters["precision"] == precision
    assert changed["bf16"] > 0.95
    assert 0.1 < changed["bf16_pure"] < 0.9


def test_mixing_in_pure_bf16_learns_nearly_the_same(upcycled, data, tmp_path):
    flags = [*FLAGS, "--max-steps", 6]
    options = {"moe_sft": flags, "weighted_init": ["--lam", 0.6], "weighted_trained": flags}
    words = Chain(tmp_path, options, moe=upcycled, data=data).words("weighted_trained")
    alphas = {}
    for precision in ("fp32", "bf16_pure"):
        learn("weighted_trained", tmp_path / precision, *words, "--precision", precision)
        alphas[precision] = load_file(tmp_path / precision / "model.safetensors")["alpha"]
    assert alphas["bf16_pure"].dtype == torch.float32
    assert alphas["fp32"].abs().max() > 0.01
    difference = (alphas["bf16_pure"] - alphas["fp32"]).norm()
    assert difference < 0.3 * alphas["fp32"].norm()
