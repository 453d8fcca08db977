"""Low-rank tunings of mixtures and of the dense base: what learns, and what stays."""

import pytest
import torch
from mixtures import low_rank_mixture
from peft import LoraConfig, get_peft_model
from plain_losses import RATE, STEPS, encoded, plain_loop, plain_loss
from safetensors.torch import load_file
from trainings import learn
from transformers import AutoModelForCausalLM

from xft.checkpoints.reader import Checkpoint
from xft.common.errors import UserError

pytestmark = pytest.mark.numeric

RANK, ALPHA = 4, 6.0
FLAGS = ["--max-steps", STEPS, "--learning-rate", RATE, "--per-device-train-batch-size", 12]
FLAGS += ["--lr-scheduler-type", "constant_with_warmup", "--optim", "adamw_torch"]
LORA = ["--lora-rank", RANK, "--lora-alpha", ALPHA]
PLAIN = {"router_noise": False, "balance_loss_coef": 0.0, "lora_alpha": ALPHA}


def assert_learned(after, expected, before) -> None:
    """Compare what was learned by its norm: AdamW makes much of the rounding of small gradients."""
    learned = expected - before
    assert torch.linalg.vector_norm(learned) > RATE
    assert torch.linalg.vector_norm(after - expected) < 0.01 * torch.linalg.vector_norm(learned)


def is_factor(name: str) -> bool:
    return ".lora_" in name or ".router." in name


def test_frozen_rest_learns_factors_and_router_as_a_plain_loop_does(tiny_llama, data, tmp_path):
    mixture = low_rank_mixture(tiny_llama, tmp_path / "moe", **PLAIN)
    learn("moe_sft", tmp_path / "out", "--moe", mixture, "--data", data, *FLAGS)
    model = AutoModelForCausalLM.from_pretrained(mixture)
    plain_loop(model, [p for name, p in model.named_parameters() if is_factor(name)], mixture)
    before, after = (load_file(path / "model.safetensors") for path in (mixture, tmp_path / "out"))
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        if is_factor(name):
            assert_learned(tensor, model.get_parameter(name).detach(), before[name])
        else:
            assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("rest", ["full", "lora"])
def test_the_rest_learns_as_asked_and_the_mlps_of_the_base_never(tiny_llama, data, tmp_path, rest):
    mixture = low_rank_mixture(tiny_llama, tmp_path / "moe", train_rest=rest, **PLAIN)
    lines = learn("moe_sft", tmp_path / "out", "--moe", mixture, "--data", data, *FLAGS)
    before, after = (load_file(path / "model.safetensors") for path in (mixture, tmp_path / "out"))
    assert before.keys() == after.keys()
    changes = {name: after[name] - before[name] for name in before}
    changed = {name for name, change in changes.items() if change.any()}
    if rest == "full":
        assert changed == {name for name in before if ".mlp.dense." not in name}
    else:
        attention = {name for name in before if ".self_attn." in name}
        assert changed == {name for name in before if is_factor(name)} | attention
        ranks = {torch.linalg.matrix_rank(changes[name], tol=1e-5).item() for name in attention}
        assert ranks == {RANK}
    assert lines[-1]["loss"] < lines[0]["loss"]
    with torch.no_grad():  # what was written is what the training ended with
        tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert plain_loss(tuned, encoded(mixture)).item() < lines[-1]["loss"]


def test_the_baseline_learns_the_products_of_a_plain_loop(tiny_llama, data, tmp_path, monkeypatch):
    def start(tensor, **_):
        generator = torch.Generator().manual_seed(tensor.shape[1])
        return tensor.data.copy_(0.2 * torch.randn(tensor.shape, generator=generator))

    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", start)
    learn("sft", tmp_path / "out", "--base", tiny_llama, "--data", data, *FLAGS, *LORA)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    settings = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    model = get_peft_model(model, settings)
    plain_loop(model, [p for p in model.parameters() if p.requires_grad], tiny_llama)
    expected = model.merge_and_unload().state_dict()
    after, before = Checkpoint(tmp_path / "out"), Checkpoint(tiny_llama)
    assert after.config == before.config
    assert after.names == before.names
    for name in after.names:
        if "_proj." in name:
            assert_learned(after.get(name), expected[name], before.get(name))
        else:
            assert torch.equal(after.get(name), before.get(name)), name


def test_what_cannot_be_is_refused_before_the_training(tiny_llama, data, tmp_path):
    out, words = tmp_path / "out", ["--data", data, *FLAGS]
    with pytest.raises(UserError, match=r"rank = 17: .*k_proj has at most rank 16"):
        learn("sft", out, "--base", tiny_llama, *words, "--lora-rank", 17)
