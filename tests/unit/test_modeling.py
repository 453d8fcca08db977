"""Upcycled models: equal to the dense model at step 0, on each backbone; router; padding."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import workflow_scripts.modeling  # noqa: F401
from workflow_scripts import moe
from workflow_scripts.modeling.router import NOISE_EPSILON, Router, smooth_load, squared_variation


@pytest.fixture(scope="module")
def tiny_moe(tiny_llama, tmp_path_factory):
    out = tmp_path_factory.mktemp("moe") / "moe"
    moe.main(["--base", str(tiny_llama), "--out", str(out)])
    return out


@pytest.fixture
def upcycled(tiny_moe):
    return AutoModelForCausalLM.from_pretrained(tiny_moe)


@pytest.fixture(scope="module")
def trained(tiny_moe):
    """A mixture whose experts differ. Read only."""
    model = AutoModelForCausalLM.from_pretrained(tiny_moe).eval()
    generator = torch.Generator().manual_seed(7)
    for block in model.moe_blocks:
        for weight in block.experts.parameters():
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def tokens(batch=2, length=24):
    return torch.randint(3, 97, (batch, length), generator=torch.Generator().manual_seed(1))


def test_base_config_is_kept_unchanged(tiny_llama, tiny_moe):
    ours = json.loads((tiny_moe / "config.json").read_text())["base_config"]
    assert ours == json.loads((tiny_llama / "config.json").read_text())


def test_noise_starts_at_zero_and_stays_there_when_initialised_again(upcycled):
    fresh = AutoModelForCausalLM.from_config(upcycled.config)
    fresh.init_weights()
    for model in (upcycled, fresh):
        for block in model.moe_blocks:
            assert not block.router.noise.weight.any()


def test_every_parameter_gets_a_gradient_even_of_experts_without_tokens(upcycled):
    few = tokens(batch=1, length=2)
    upcycled.train()(few, labels=few).loss.backward()
    without = [name for name, p in upcycled.named_parameters() if p.grad is None]
    assert without == []
    idle = [
        (gradient == 0).all()
        for block in upcycled.moe_blocks
        for gradient in block.experts.down_proj.grad
    ]
    assert any(idle)


def router_config(**changes):
    settings = {
        "num_experts": 8,
        "num_experts_per_tok": 6,
        "shared_expert": True,
        "normalize_routing": True,
        "router": "mlp",
        "router_noise": True,
    }
    return type("Config", (), settings | changes)


@settings(max_examples=50, deadline=None)
@given(
    experts=st.integers(2, 9),
    chosen=st.integers(2, 9),
    scale=st.floats(0.01, 50),
    seed=st.integers(0, 2**31),
)
def test_routing_weights_sum_to_one_and_experts_are_distinct(experts, chosen, scale, seed):
    chosen = min(chosen, experts)
    router = Router(router_config(num_experts=experts, num_experts_per_tok=chosen), 4)
    logits = torch.randn(11, experts - 1, generator=torch.Generator().manual_seed(seed)) * scale
    routing = router.route(logits)
    torch.testing.assert_close(routing.weights.sum(1) + routing.shared_weight, torch.ones(11))
    assert all(len(set(row)) == chosen - 1 for row in routing.indices.tolist())
    assert routing.load.sum() == 11 * (chosen - 1)


def test_without_normalisation_the_weights_are_the_probabilities():
    router = Router(router_config(normalize_routing=False), 4)
    logits = torch.randn(5, 7)
    routing = router.route(logits)
    probabilities = logits.softmax(1)
    torch.testing.assert_close(routing.weights, probabilities.gather(1, routing.indices))
    torch.testing.assert_close(routing.shared_weight, 1 - probabilities.max(1).values)


def test_vanilla_upcycling_has_no_shared_expert():
    router = Router(router_config(shared_expert=False), 4)
    logits = torch.randn(5, 8)
    routing = router.route(logits)
    assert routing.shared_weight is None
    expected = logits.gather(1, routing.indices).softmax(1)
    torch.testing.assert_close(routing.weights, expected)


def test_load_is_the_probability_of_being_chosen_under_fresh_noise():
    """Shazeer et al. 2017: redraw one expert's noise many times, count how often it is chosen."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(3, 5, generator=generator)
    scale = torch.rand(3, 5, generator=generator) + NOISE_EPSILON
    noisy = clean + scale * torch.randn(3, 5, generator=generator)
    draws, top_k = 20000, 2
    counted = torch.zeros(5)
    for expert in range(5):
        redrawn = noisy.expand(draws, 3, 5).clone()
        fresh = torch.randn(draws, 3, generator=generator)
        redrawn[:, :, expert] = clean[:, expert] + scale[:, expert] * fresh
        chosen = (redrawn.topk(top_k, dim=-1).indices == expert).any(-1)
        counted[expert] = chosen.float().mean(0).sum()
    ours = smooth_load(clean, noisy, scale, top_k)
    torch.testing.assert_close(ours, counted, atol=0.03, rtol=0)


def test_balance_loss_by_hand():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    mean = 3.0
    variance = (4 + 1 + 0 + 9) / 3
    assert math.isclose(squared_variation(values), variance / mean**2, rel_tol=1e-6)
    assert squared_variation(torch.tensor([5.0])) == 0


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_experts_implementations_agree_with_a_plain_loop(tiny_moe, implementation):
    model = AutoModelForCausalLM.from_pretrained(tiny_moe, experts_implementation=implementation)
    experts = model.moe_blocks[0].experts
    torch.manual_seed(0)
    torch.nn.init.normal_(experts.gate_up_proj, std=0.2)
    torch.nn.init.normal_(experts.down_proj, std=0.2)
    x = torch.randn(9, 32)
    index = torch.rand(9, 7).argsort(1)[:, :5]
    weights = torch.rand(9, 5)
    expected = torch.zeros_like(x)
    for token in range(9):
        for slot in range(5):
            gate_up = experts.gate_up_proj[index[token, slot]] @ x[token]
            gate, up = gate_up.chunk(2)
            out = experts.down_proj[index[token, slot]] @ (torch.nn.functional.silu(gate) * up)
            expected[token] += weights[token, slot] * out
    torch.testing.assert_close(experts(x, index, weights), expected, atol=1e-5, rtol=1e-4)


def test_bf16_step_0_agrees_within_rounding(tiny_llama, tiny_moe):
    dense = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16)
    upcycled = AutoModelForCausalLM.from_pretrained(tiny_moe, dtype=torch.bfloat16)
    ids = tokens()
    with torch.no_grad():
        expected, ours = dense(ids).logits.float(), upcycled(ids).logits.float()
    assert (ours - expected).abs().max() <= 0.05 * expected.abs().max()
