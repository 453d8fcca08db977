"""The published modules' results, as the reference vectors in tests/golden hold them.

They were computed in fp32. What the same formulas give in float64 is 1.1e-5 to 1.6e-5 in logits (of
size 12) and 1e-6 in weights away from them: their rounding error. Our code is compared with them in
float64, where no processor's rounding is in the way, and in fp32 with a larger tolerance.
"""

import json

import pytest
import torch
from chains import Chain
from published import converted
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from xft.checkpoints.reader import Checkpoint
from xft.conversions.coefficients import mixing_coefficients
from xft.conversions.dense_models import dense_specs
from xft.modeling.mixing import Mixing, MixingLogits
from xft.modeling.router import squared_variation

pytestmark = pytest.mark.numeric

# How far the vectors are from float64: in logits, in weights, and in gradients, there relative to
# the largest entry.
LOGITS, WEIGHTS, GRADIENTS = 2e-5, 1.1e-6, 1e-4


@pytest.fixture(scope="module", params=["a_8x_top6", "e_8x_nonorm"])
def case(request, repository, tmp_path_factory):
    """Expected tensors, and the folder of the imported model."""
    golden = repository / "tests" / "golden" / request.param
    imported = converted(golden / "checkpoint", tmp_path_factory.mktemp("reference") / "mixture")
    return load_file(golden / "expected.safetensors"), imported


@pytest.fixture
def model(case, float64_norms):
    return AutoModelForCausalLM.from_pretrained(case[1], dtype=torch.float64)


@pytest.fixture
def float64_norms(monkeypatch):
    """transformers' norms compute in fp32. Here they compute in the dtype of their input."""

    def forward(self, states):
        return functional.rms_norm(states, states.shape[-1:], self.weight, self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


def run(model, expected, mode):
    """Our model's output for the case's inputs and, in training mode, its noise."""
    model.train(mode == "train")
    for layer, block in enumerate(model.moe_blocks):
        noise = expected[f"train.layer{layer}.noise"]
        block.router.sample_noise = lambda like, noise=noise: noise.to(like.dtype)
    with torch.no_grad():
        return model(input_ids=expected["input_ids"], labels=expected["labels"])


def published_routing(routing):
    """Indices, weights and importance as published: the shared expert, number 0, stands last."""
    shared = torch.zeros(len(routing.indices), 1, dtype=torch.long)
    indices = torch.cat([routing.indices + 1, shared], dim=1)
    weights = torch.cat([routing.weights, routing.shared_weight[:, None]], dim=1)
    return indices, weights, routing.importance


def distance(first, second):
    """The largest difference of two tensors."""
    return (first.double() - second.double()).abs().max().item()


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float64, 1), (torch.float32, 4)])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_logits_and_routing(case, request, mode, dtype, factor):
    """Training mode with the draws that the published modules got."""
    expected, imported = case
    if dtype is torch.float64:
        request.getfixturevalue("float64_norms")
    output = run(AutoModelForCausalLM.from_pretrained(imported, dtype=dtype), expected, mode)
    assert distance(output.logits, expected[f"{mode}.logits"]) <= factor * LOGITS
    assert len(output.routing) == 2
    for layer, routing in enumerate(output.routing):
        indices, weights, importance = published_routing(routing)
        given = f"{mode}.layer{layer}"
        assert torch.equal(indices, expected[f"{given}.topK_indices"])
        assert distance(weights, expected[f"{given}.topK_scores"]) <= factor * WEIGHTS
        wanted = expected[f"{given}.importance"]
        torch.testing.assert_close(importance, wanted, atol=0, rtol=factor * 1e-6)


def test_losses_and_load(case, model):
    expected = case[0]
    output = run(model, expected, "eval")
    loss = output.loss + output.aux_loss
    torch.testing.assert_close(loss.view(1), expected["eval.loss_with_balance"], atol=0, rtol=1e-6)
    balance = {"eval.balance_loss": output.aux_loss}
    for layer, routing in enumerate(output.routing):
        assert torch.equal(routing.load.long(), expected[f"eval.layer{layer}.load"])
        layer_loss = model.config.balance_loss_coef * squared_variation(routing.counts).sum()
        balance[f"eval.layer{layer}.balance_loss"] = layer_loss
    for key, loss in balance.items():
        torch.testing.assert_close(loss.view(1), expected[key], atol=0, rtol=5e-6)


def test_cross_entropy_gradients(case, model):
    expected = case[0]
    output = model(input_ids=expected["input_ids"], labels=expected["labels"])
    output.loss.backward()
    given = {k: gradient for k, gradient in expected.items() if k.startswith("eval.ce_grad.")}
    assert len(given) == 27
    for key, gradient in given.items():
        ours = gradient_of(model, key.removeprefix("eval.ce_grad."))
        assert distance(ours, gradient) <= GRADIENTS * gradient.abs().max(), key


def gradient_of(model, published_name):
    """The gradient of the parameter that the published code calls `published_name`."""
    if "calculator" not in published_name and "gate_network" not in published_name:
        return model.get_parameter(published_name).grad
    block = model.moe_blocks[0]
    if "gate_network" in published_name:
        parts = {"0": block.router.input, "2": block.router.output}
        return parts[published_name.split(".")[-2]].weight.grad
    part, expert = published_name.removesuffix(".weight").split("weight_")[1].split(".")
    projection, expert = f"{part}_proj", int(expert)
    if expert == 0:
        return getattr(block.shared_expert, projection).weight.grad
    if projection == "down_proj":
        return block.experts.down_proj.grad[expert - 1]
    gate, up = block.experts.gate_up_proj.grad[expert - 1].chunk(2)
    return gate if projection == "gate_proj" else up


@pytest.fixture(scope="module")
def mixing_case(repository, tmp_path_factory):
    golden = repository / "tests" / "golden" / "a_8x_top6"
    folder = tmp_path_factory.mktemp("mixing")
    imported = converted(golden / "checkpoint", folder / "moe_sft")
    extracted = Chain(folder, moe_sft=imported)["ffn"]
    expected = load_file(golden / "expected.safetensors")
    alpha = torch.stack([expected[f"mix.layer{layer}.alpha"] for layer in range(2)])[:, None]
    lam = json.loads((golden / "case.json").read_text())["lambda"]
    return Checkpoint(imported), Checkpoint(extracted), alpha, lam, expected


def test_mixing_logits_and_gradients(mixing_case, float64_norms):
    moe, extracted, alpha, lam, expected = mixing_case
    logits = MixingLogits(alpha, lam)
    mixing = Mixing(moe, extracted, logits, dtype=torch.float64)
    output = mixing.model(input_ids=expected["input_ids"], labels=expected["labels"])
    output.loss.backward()
    mixing.take_gradients()
    assert distance(output.logits, expected["mix.logits"]) <= LOGITS
    assert output.loss.item() == pytest.approx(expected["mix.loss"].item(), rel=1e-6)
    for layer, alpha in enumerate(mixing.logits.alpha):
        gradient = expected[f"mix.layer{layer}.alpha_grad"]
        assert distance(alpha.grad, gradient) <= GRADIENTS * gradient.abs().max()


def test_merged_weights(mixing_case):
    moe, extracted, alpha, lam, expected = mixing_case
    coefficients = mixing_coefficients(alpha, lam)
    specs = dense_specs(moe, extracted, coefficients)
    merged = {spec.name: spec.chunks()[0] for spec in specs if "mlp" in spec.name}
    assert {f"dense.{name}" for name in merged} == {k for k in expected if k.startswith("dense.")}
    for name, weight in merged.items():
        torch.testing.assert_close(weight, expected[f"dense.{name}"], atol=1e-6, rtol=0)
