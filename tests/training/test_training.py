"""Training: the loss of a step, its parts, and that the same seed gives the same bytes."""

import json
import math

import pytest
import torch
from chains import Chain
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from workflow_scripts import (
    moe_sft,
    weighted_trained,
)
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common import optional
from xft.common.errors import UserError
from xft.config.sections import MoeSftConfig
from xft.training.checkpoints import Checkpoints
from xft.training.trainer import Training, train

ROWS = [
    {"instruction": f"Add {n} to x.", "response": f"def add(x):\n    return x + {n}" * (1 + n % 3)}
    for n in range(12)
]
OPTIONS = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
}
FLAGS = ["--max-steps", "3", "--per-device-train-batch-size", "4", "--learning-rate", "0.01"]


@pytest.fixture(scope="module")
def upcycled(tiny_llama, tmp_path_factory):
    return Chain(tmp_path_factory.mktemp("training"), base=tiny_llama)["moe"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def examples():
    """Rows of differing length, with prompts that are not trained on."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for length in (9, 17, 12, 7, 21, 14, 8, 19):
        ids = torch.randint(3, 290, (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * 4 + ids[4:], "row": len(rows) + 1})
    return rows


def losses(file):
    return [json.loads(line)["loss"] for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        (["--max-steps", "3"], 3),
        (["--num-train-epochs", "2", "--per-device-train-batch-size", "6"], 4),
    ],
)
def test_a_warm_up_longer_than_the_training_stops_before_it(upcycled, data, tmp_path, flags, steps):
    words = ["--moe", upcycled, "--data", data, "--out", tmp_path / "out", *flags]
    metrics = tmp_path / "metrics.jsonl"
    with pytest.raises(UserError, match=f"warmup_steps = 5: the training has {steps} steps, and"):
        moe_sft.main([*map(str, words), "--warmup-steps", "5", "--metrics", str(metrics)])
    assert not metrics.exists() or not metrics.read_text()
    assert not (tmp_path / "out").exists()


def test_loss_is_the_mean_over_the_response_tokens_plus_the_balance_loss(
    upcycled, tokenizer, tmp_path
):
    model = AutoModelForCausalLM.from_pretrained(upcycled)
    model.config.balance_loss_coef = 0.0
    total, count = 0.0, 0
    with torch.no_grad():
        for row in examples():
            ids = torch.tensor([row["input_ids"]])
            logits = model(ids).logits[0, 3:-1]
            total += torch.nn.functional.cross_entropy(logits, ids[0, 4:], reduction="sum").item()
            count += ids.shape[1] - 4
    options = MoeSftConfig(**OPTIONS | {"max_steps": 1, "per_device_train_batch_size": 8})
    checkpoints = Checkpoints(tmp_path / "out", "none", math.inf)
    metrics = tmp_path / "m.jsonl"
    train(Training(model, examples(), tokenizer, options, 0, checkpoints, metrics_file=metrics))
    assert losses(tmp_path / "m.jsonl")[0] == pytest.approx(total / count, rel=1e-5)


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
        options = MoeSftConfig(**OPTIONS | sizes)
        metrics = tmp_path / f"{batch}.jsonl"
        checkpoints = Checkpoints(tmp_path / "out", "none", math.inf)
        train(Training(model, examples(), tokenizer, options, 0, checkpoints, metrics_file=metrics))
        results.append((losses(metrics), model.model.embed_tokens.weight.detach()))
    (one, weights), (other, other_weights) = results
    # The balance loss is one of each micro-batch: it differs, by little.
    tolerance = 1e-5 if balance_loss_coef == 0 else 1e-3
    assert one == pytest.approx(other, rel=tolerance)
    if balance_loss_coef == 0:
        torch.testing.assert_close(weights, other_weights, atol=1e-5, rtol=1e-4)


def tune(upcycled, data, out, *flags):
    arguments = ["--moe", upcycled, "--data", data, "--out", out, *FLAGS, *flags]
    moe_sft.main([str(argument) for argument in arguments])
    return out


def test_same_seed_same_bytes_another_seed_others(upcycled, data, tmp_path):
    ids = [
        read_manifest(manifest_path(tune(upcycled, data, tmp_path / name, "--seed", seed))).id
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert ids[0] == ids[1] != ids[2]


def test_tuned_mixture_loads_and_has_learned(upcycled, data, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    out = tune(upcycled, data, tmp_path / "out", "--metrics", metrics, "--max-steps", "12")
    assert len(losses(metrics)) == 12
    last = json.loads(metrics.read_text().splitlines()[-1])
    for name in ("load", "importance"):  # two layers, of three routed experts each
        assert [sum(layer) for layer in last[name]] == pytest.approx([1, 1], abs=2e-4)
        assert [len(layer) for layer in last[name]] == [3, 3]
    assert all(0 < entropy <= round(math.log(3), 4) for entropy in last["entropy"])
    assert len(last["noise_scale"]) == 2
    assert all(0 < share < 1 for share in last["noise_changed"])
    assert losses(metrics)[-1] < losses(metrics)[0]
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
    options = {"moe_sft": [*FLAGS, "--max-steps", "6"], "weighted_trained": FLAGS}
    words = Chain(tmp_path, options, moe=upcycled, data=data).words("weighted_trained")
    before = file_hashes(tmp_path)
    for out in ("one", "two"):
        metrics = tmp_path / f"{out}.jsonl"
        weighted_trained.main([*words, "--metrics", str(metrics), "--out", str(tmp_path / out)])
    after = file_hashes(tmp_path)
    assert {name: after[name] for name in before} == before
    assert after["one/model.safetensors"] == after["two/model.safetensors"]
    assert after["one.manifest.json"] == after["two.manifest.json"]
    last = json.loads(metrics.read_text().splitlines()[-1])
    shares = torch.tensor(last["shares"])
    assert shares.shape == (2, 1, 3)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 1))
    assert (shares - 1 / 3).abs().max() > 1e-3


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_8bit"])
def test_other_forms_of_adamw_learn_what_the_fused_one_learns(optimizer, upcycled, data, tmp_path):
    curves = {}
    for name in ("adamw_torch_fused", optimizer):
        metrics = tmp_path / f"{name}.jsonl"
        flags = ["--optim", name, "--learning-rate", "1e-3", "--metrics", metrics]
        tune(upcycled, data, tmp_path / name, *flags)
        curves[name] = losses(metrics)
    assert (
        optimizer == "adamw_torch" or curves[optimizer] != curves["adamw_torch_fused"]
    )  # 8 bits round
    assert curves[optimizer] == pytest.approx(curves["adamw_torch_fused"], rel=1e-4)


def test_an_optimiser_that_is_not_installed_is_refused_first(tmp_path, monkeypatch):
    monkeypatch.setitem(optional.PACKAGES, "adamw_8bit", ("no-such-package",))
    with pytest.raises(UserError, match=r"^adamw_8bit needs the package no-such-package.* install"):
        tune("nowhere", "nothing", tmp_path / "out", "--optim", "adamw_8bit")


def test_wsd_is_constant_and_falls_in_the_last_tenth(upcycled, data, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    flags = [
        "--lr-scheduler-type",
        "warmup_stable_decay",
        "--max-steps",
        "20",
        "--warmup-steps",
        "4",
        "--metrics",
        metrics,
    ]
    tune(upcycled, data, tmp_path / "out", *flags)
    rates = [json.loads(line)["learning_rate"] for line in metrics.read_text().splitlines()]
    warm_up, decay = [0.0, 0.0025, 0.005, 0.0075], [0.01, 0.005]
    assert rates == pytest.approx(warm_up + [0.01] * 14 + decay)


def test_pure_bf16_loses_what_master_weights_keep(upcycled, data, tmp_path):
    """Each starts from the same bf16 values; a small rate moves few of those."""
    before = AutoModelForCausalLM.from_pretrained(upcycled, dtype=torch.bfloat16)
    changed = {}
    for precision in ("bf16", "bf16_pure"):
        flags = ["--precision", precision, "--learning-rate", "1e-4", "--max-steps", "1"]
        out = tune(upcycled, data, tmp_path / precision, *flags, "--warmup-steps", "0")
        after = dict(AutoModelForCausalLM.from_pretrained(out).named_parameters())
        different = sum(
            (after[name] != parameter.float()).sum().item()
            for name, parameter in before.named_parameters()
        )
        changed[precision] = different / sum(parameter.numel() for parameter in after.values())
    assert changed["bf16"] > 0.95
    assert 0.1 < changed["bf16_pure"] < 0.9


def test_the_manifest_says_which_precision_it_was(upcycled, data, tmp_path):
    manifest = read_manifest(manifest_path(tune(upcycled, data, tmp_path / "tuned")))
    has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    assert manifest.parameters["precision"] == ("bf16" if has_bf16 else "fp32")


def test_mixing_in_pure_bf16_learns_nearly_the_same(upcycled, data, tmp_path):
    flags = [*FLAGS, "--max-steps", "6"]
    options = {"moe_sft": flags, "weighted_init": ["--lam", "0.6"], "weighted_trained": flags}
    words = Chain(tmp_path, options, moe=upcycled, data=data).words("weighted_trained")
    alphas = {}
    for precision in ("fp32", "bf16_pure"):
        out = tmp_path / precision
        weighted_trained.main([*words, "--precision", precision, "--out", str(out)])
        alphas[precision] = load_file(out / "model.safetensors")["alpha"]
    assert alphas["bf16_pure"].dtype == torch.float32
    assert alphas["fp32"].abs().max() > 0.01
    difference = (alphas["bf16_pure"] - alphas["fp32"]).norm()
    assert difference < 0.3 * alphas["fp32"].norm()
