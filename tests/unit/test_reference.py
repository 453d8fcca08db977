"""The published modules' results, as the reference vectors in tests/golden hold them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import workflow_scripts.modeling  # noqa: F401
from workflow_scripts import ffn, import_reference
from workflow_scripts.checkpoints.reader import Checkpoint
from workflow_scripts.conversions.merge import merge_plans
from workflow_scripts.modeling.mixing import Mixing

CASES = ("a_8x_top6", "e_8x_nonorm")


@pytest.fixture(scope="module", params=CASES)
def case(request, repository, tmp_path_factory):
    """Expected tensors, and the folder of the imported model."""
    golden = repository / "tests" / "golden" / request.param
    imported = tmp_path_factory.mktemp("reference") / request.param
    import_reference.main(["--model", str(golden / "checkpoint"), "--out", str(imported)])
    return load_file(golden / "expected.safetensors"), imported


@pytest.fixture
def model(case):
    return AutoModelForCausalLM.from_pretrained(case[1])


def published_routing(routing):
    """Indices and weights as published: the shared expert is number 0 and stands last."""
    shared = torch.zeros(len(routing.indices), 1, dtype=torch.long)
    indices = torch.cat([routing.indices + 1, shared], dim=1)
    return indices, torch.cat([routing.weights, routing.shared_weight[:, None]], dim=1)


def assert_routing(routing, expected, mode, layer):
    indices, weights = published_routing(routing)
    prefix = f"{mode}.layer{layer}"
    assert torch.equal(indices, expected[f"{prefix}.topK_indices"])
    torch.testing.assert_close(weights, expected[f"{prefix}.topK_scores"], atol=2e-6, rtol=0)
    torch.testing.assert_close(
        routing.importance, expected[f"{prefix}.importance"], atol=1e-5, rtol=1e-6
    )


def test_evaluation_mode(case, model):
    expected, _ = case
    with torch.no_grad():
        output = model(input_ids=expected["input_ids"], labels=expected["labels"])
    torch.testing.assert_close(output.logits, expected["eval.logits"], atol=3e-5, rtol=0)
    torch.testing.assert_close(
        output.loss.view(1), expected["eval.loss_with_balance"], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        output.aux_loss.view(1), expected["eval.balance_loss"], atol=1e-7, rtol=1e-5
    )
    for layer, routing in enumerate(output.routing):
        assert_routing(routing, expected, "eval", layer)
        assert torch.equal(routing.load.long(), expected[f"eval.layer{layer}.load"])


def test_training_mode_with_given_noise(case, model):
    expected, _ = case
    model.train()
    for layer, block in enumerate(model.moe_blocks):
        block.router.sample_noise = lambda like, layer=layer: expected[f"train.layer{layer}.noise"]
    with torch.no_grad():
        output = model(input_ids=expected["input_ids"])
    torch.testing.assert_close(output.logits, expected["train.logits"], atol=3e-5, rtol=0)
    for layer, routing in enumerate(output.routing):
        assert_routing(routing, expected, "train", layer)


def test_cross_entropy_gradients(case, model):
    expected, _ = case
    output = model(input_ids=expected["input_ids"], labels=expected["labels"])
    (output.loss - output.aux_loss).backward()
    checked = 0
    for key, gradient in expected.items():
        if key.startswith("eval.ce_grad."):
            ours = gradient_of(model, key.removeprefix("eval.ce_grad."))
            scale = gradient.abs().max()
            torch.testing.assert_close(ours / scale, gradient / scale, atol=1e-4, rtol=0)
            checked += 1
    assert checked == 27


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
    imported, extracted = folder / "moe_sft", folder / "ffn"
    import_reference.main(["--model", str(golden / "checkpoint"), "--out", str(imported)])
    ffn.main(["--moe", str(imported), "--out", str(extracted)])
    expected = load_file(golden / "expected.safetensors")
    alpha = torch.stack([expected[f"mix.layer{layer}.alpha"] for layer in range(2)])[:, None]
    shared_expert_weight = json.loads((golden / "case.json").read_text())["lambda"]
    return Checkpoint(imported), Checkpoint(extracted), alpha, shared_expert_weight, expected


def test_mixing_logits_and_gradients(mixing_case):
    *arguments, expected = mixing_case
    mixing = Mixing(*arguments)
    output = mixing.model(input_ids=expected["input_ids"], labels=expected["labels"])
    output.loss.backward()
    torch.testing.assert_close(output.logits, expected["mix.logits"], atol=2e-5, rtol=0)
    torch.testing.assert_close(output.loss.view(1), expected["mix.loss"], atol=1e-5, rtol=0)
    for layer, (alpha,) in enumerate(mixing.parameters):
        gradient = expected[f"mix.layer{layer}.alpha_grad"]
        scale = gradient.abs().max()
        torch.testing.assert_close(alpha.grad / scale, gradient / scale, atol=1e-4, rtol=0)


def test_merged_weights(mixing_case):
    *arguments, expected = mixing_case
    merged = {plan.name: plan.chunks()[0] for plan in merge_plans(*arguments) if "mlp" in plan.name}
    assert {f"dense.{name}" for name in merged} == {k for k in expected if k.startswith("dense.")}
    for name, weight in merged.items():
        torch.testing.assert_close(weight, expected[f"dense.{name}"], atol=1e-6, rtol=0)


def test_a_published_vanilla_mixture_with_a_linear_router(repository, tmp_path):
    """All experts routed, softmax over the chosen logits: computed here expert by expert."""
    golden = repository / "tests" / "golden" / "a_8x_top6" / "checkpoint"
    state = load_file(golden / "model.safetensors")
    config = json.loads((golden / "config.json").read_text())
    config |= {"gate_type": "TopKBalancedNoisyGate", "gate_network": "linear", "num_selects": 3}
    config |= {"gate_add_noise": False}
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in state if ".mlp.gate." in name]:
        del state[name]
    for layer in range(2):
        gate = torch.randn(8, 32, generator=generator)
        state[f"model.layers.{layer}.mlp.gate.gate_network.weight"] = gate
    (tmp_path / "published").mkdir()
    save_file(state, tmp_path / "published" / "model.safetensors")
    (tmp_path / "published" / "config.json").write_text(json.dumps(config))
    out = tmp_path / "imported"
    import_reference.main(["--model", str(tmp_path / "published"), "--out", str(out)])
    block = AutoModelForCausalLM.from_pretrained(out).moe_blocks[1]

    x = torch.randn(5, 32, generator=generator)
    prefix = "model.layers.1.mlp"
    logits, indices = (x @ state[f"{prefix}.gate.gate_network.weight"].T).topk(3)
    expected = torch.zeros(5, 32)
    for token in range(5):
        for weight, expert in zip(logits[token].softmax(0), indices[token], strict=True):
            gate, up, down = (
                state[f"{prefix}.calculator.experts.weight_{part}.{expert}.weight"]
                for part in ("gate", "up", "down")
            )
            hidden = torch.nn.functional.silu(gate @ x[token]) * (up @ x[token])
            expected[token] += weight * (down @ hidden)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-4)
