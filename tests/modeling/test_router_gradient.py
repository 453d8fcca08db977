"""The router's gradient by all experts, against autograd of its definition."""

from dataclasses import replace

import pytest
import torch
from mixtures import random_mixture

pytestmark = pytest.mark.numeric
FORMS = {
    "shared": {},
    "plain weights": {"normalize_routing": False},
    "without a shared expert": {"shared_expert": False, "num_experts_per_tok": 2},
    "LoRA": {"experts": "lora", "rank": 2},
}


@pytest.fixture(params=FORMS)
def block(request):
    model = random_mixture("llama", moe=FORMS[request.param]).train()
    block = model.moe_blocks[0]
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block


def gradients(output, upstream, block) -> dict[str, torch.Tensor]:
    named = dict(block.named_parameters())
    found = torch.autograd.grad((output * upstream).sum(), list(named.values()), allow_unused=True)
    return {name: value for name, value in zip(named, found, strict=True) if value is not None}


def definition(block, tokens) -> torch.Tensor:
    """y of the chosen experts without the weights' gradient, plus a term of value zero with it."""
    routing = block.router(tokens)
    hard = torch.zeros_like(routing.logits).scatter(1, routing.indices, routing.weights).detach()
    gates = routing.logits.softmax(-1)
    if block.router.has_shared_expert and block.router.normalize:
        soft = gates.max(-1, keepdim=True).values * gates.softmax(-1)
    else:
        soft = gates
    outputs = torch.stack([block.output_of(i, tokens) for i in range(hard.shape[1])], 1)
    output = (hard[..., None] * outputs).sum(1)
    through = (soft[..., None] * outputs.detach()).sum(1)
    if routing.shared_weight is not None:
        nothing = replace(routing, weights=torch.zeros_like(routing.weights))
        output = output + block.compute(tokens, nothing)
    return output + through - through.detach()


def test_the_router_learns_from_all_experts(block):
    tokens, upstream = torch.randn(2, 11, block.shape.hidden_size)
    usual = block(tokens)
    expected = gradients(definition(block, tokens), upstream, block)
    before = gradients(usual, upstream, block)
    block.dense_router_gradient = True
    output = block(tokens)
    assert torch.equal(output, usual)
    after = gradients(output, upstream, block)
    for name, value in expected.items():
        assert (after[name] - value).abs().max() <= 1e-5 * value.abs().max(), name
    routers = {name for name in after if name.startswith("router.")}
    assert all(torch.equal(after[name], before[name]) for name in after.keys() - routers)
    assert not any(torch.allclose(after[name], before[name], rtol=0.01) for name in routers)
    block.eval()
    assert torch.equal(
        gradients(block(tokens), upstream, block)["router.input.weight"],
        before["router.input.weight"],
    )
