"""Averaging of the experts: its equation, what a training does with it, and what is refused."""

import pytest
import torch
from backbones import save_base
from chains import Chain
from trainings import random_rows, train_model
from transformers import AutoModelForCausalLM

from xft.config.sections import MoeSftConfig
from xft.training.expert_averaging import expert_tensors

OPTIONS = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 3,
    "learning_rate": 1e-2,
}
BETA = 0.3
ROWS = random_rows([8 + 5 * number % 17 for number in range(12)], prompt=3)


def trained(folder, tokenizer, tmp_path, **changes):
    """A mixture after a training."""
    dtype = torch.bfloat16 if changes["precision"] == "bf16_pure" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    torch.manual_seed(0)  # routing noise
    train_model(model, ROWS, tokenizer, tmp_path / "out", MoeSftConfig(**OPTIONS | changes))
    return model


@torch.no_grad()
def averaged(model) -> dict[str, torch.Tensor]:
    """The tensors of a mixture whose experts are averaged by the equation, in float64."""
    for block in model.moe_blocks:
        for experts in expert_tensors(block):
            whole = torch.stack(experts).double()
            others = (whole.sum(0) - whole) / (len(whole) - 1)
            for expert, new in zip(experts, (1 - BETA) * whole + BETA * others, strict=True):
                expert.copy_(new)
    return model.state_dict()


@pytest.mark.parametrize(
    ("shared", "precision"), [("--shared-expert", "bf16"), ("--no-shared-expert", "bf16_pure")]
)
def test_a_step_averages_what_the_optimiser_made(
    tiny_llama, tokenizer, tmp_path, shared, precision
):
    """The average is taken once for a step with accumulated gradients. Only experts change."""
    flags = ["--num-experts", "4", "--num-experts-per-tok", "3", shared, "--init", "noise"]
    folder = Chain(tmp_path, {"moe": [*flags, "--init-noise", "0.5"]}, base=tiny_llama)["moe"]
    plain, found = (
        trained(folder, tokenizer, tmp_path, precision=precision, **changes)
        for changes in ({}, {"expert_averaging": BETA})
    )
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    expected = averaged(plain)
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, before[name]) == ("expert" not in name)
        torch.testing.assert_close(tensor, expected[name])


@pytest.mark.parametrize("name", ["llama-biases", "phi3", "starcoder2"])
def test_the_experts_of_other_forms_belong_together(name, tmp_path):
    """In a mixture of copies, what belongs together is equal. Each value is in one tensor."""
    folder = Chain(tmp_path, base=save_base(name, tmp_path / "base"))["moe"]
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
    assert not any(parameter.any() for parameter in parameters)
