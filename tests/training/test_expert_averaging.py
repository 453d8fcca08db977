"""Averaging of the experts: its equation, what a training does with it, and what is refused."""

import math

import pytest
import torch
from backbones import BACKBONES, SIZES
from chains import Chain
from trainings import random_rows
from transformers import AutoConfig, AutoModelForCausalLM

from xft.config.sections import MoeSftConfig
from xft.training.checkpoints import Checkpoints
from xft.training.expert_averaging import expert_tensors
from xft.training.trainer import Training, train

OPTIONS = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 3,
    "learning_rate": 1e-2,
}
BETA = 0.3
ROWS = random_rows([8 + 5 * number % 17 for number in range(12)], prompt=3)


@pytest.fixture(scope="module")
def mixtures(tiny_llama, tmp_path_factory):
    """Mixtures with and without a shared expert. Their experts differ."""
    root = tmp_path_factory.mktemp("mixtures")
    flags = ["--num-experts", "4", "--num-experts-per-tok", "3", "--init", "noise"]
    flags += ["--init-noise", "0.5"]
    return {
        shared: Chain(root / shared, {"moe": [*flags, shared]}, base=tiny_llama)["moe"]
        for shared in ("--shared-expert", "--no-shared-expert")
    }


def trained(folder, tokenizer, tmp_path, **changes) -> dict[str, torch.Tensor]:
    """The tensors of a mixture after a training."""
    dtype = torch.bfloat16 if changes.get("precision") == "bf16_pure" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    torch.manual_seed(0)  # routing noise
    options = MoeSftConfig(**OPTIONS | changes)
    checkpoints = Checkpoints(tmp_path / "out", "none", math.inf)
    train(Training(model, ROWS, tokenizer, options, 0, checkpoints))
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def averaged(tensors: dict[str, torch.Tensor], beta: float) -> dict[str, torch.Tensor]:
    """By the equation, with the mixing matrix A = (1 - b) I + b / (E - 1) (1 - I), in float64."""
    result = dict(tensors)
    for layer in range(2):
        mlp = f"model.layers.{layer}.mlp"
        shared = {
            "gate_up_proj": ["gate_proj", "up_proj"],
            "down_proj": ["down_proj"],
        }
        for fused, projections in shared.items():
            routed = tensors[f"{mlp}.experts.{fused}"].double()
            names = [f"{mlp}.shared_expert.{name}.weight" for name in projections]
            names = [name for name in names if name in tensors]
            first = [torch.cat([tensors[name].double() for name in names])[None]] if names else []
            whole = torch.cat([*first, routed])
            count = len(whole)
            one = torch.eye(count, dtype=torch.float64)
            matrix = (1 - beta) * one + beta / (count - 1) * (1 - one)
            new = torch.einsum("ij,jab->iab", matrix, whole).to(tensors[f"{mlp}.experts.{fused}"])
            result[f"{mlp}.experts.{fused}"] = new[len(first) :]
            for name, part in zip(names, new[0].chunk(len(projections)), strict=bool(names)):
                result[name] = part
    return result


@pytest.mark.parametrize(
    ("shared", "precision"),
    [("--shared-expert", "bf16"), ("--no-shared-expert", "bf16_pure")],
)
def test_a_step_averages_what_the_optimiser_made(mixtures, tokenizer, tmp_path, shared, precision):
    """The average is taken once for a step with accumulated gradients. Only experts change."""
    plain = trained(mixtures[shared], tokenizer, tmp_path, precision=precision)
    found = trained(
        mixtures[shared], tokenizer, tmp_path, precision=precision, expert_averaging=BETA
    )
    expected = averaged(plain, BETA)
    changed = {name for name in plain if not torch.equal(plain[name], found[name])}
    assert changed == {name for name in plain if "expert" in name}
    for name in plain:
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("name", ["llama-biases", "phi3", "starcoder2"])
def test_the_experts_of_other_forms_belong_together(name, tmp_path):
    """In a mixture of copies, what belongs together is equal. Each value is in one tensor."""
    config = AutoConfig.for_model(name.split("-")[0], **SIZES | BACKBONES[name])
    base = AutoModelForCausalLM.from_config(config)
    for key, parameter in base.named_parameters():
        if key.endswith("bias"):
            torch.nn.init.normal_(parameter)
    base.save_pretrained(tmp_path / "base")
    folder = Chain(tmp_path, base=tmp_path / "base")["moe"]
    block = AutoModelForCausalLM.from_pretrained(folder).moe_blocks[0]
    parameters = [*block.shared_expert.parameters(), *block.experts.parameters()]
    found = list(expert_tensors(block))
    count = sum(tensor.numel() for experts in found for tensor in experts)
    assert count == sum(parameter.numel() for parameter in parameters)
    for experts in found:
        assert len(experts) == 4
        assert all(torch.equal(expert, experts[0]) for expert in experts)
        for expert in experts:
            expert.zero_()
    assert all((parameter == 0).all() for parameter in parameters)
