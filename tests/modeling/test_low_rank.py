"""LoRA experts against the same experts written out as whole matrices, in all forms of MLPs; and
the router's gradient by all experts, against autograd of its definition.
"""

from functools import partial

import pytest
import torch
from backbones import small_config
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from xft.config.sections import MixtureConfig
from xft.modeling import moe_blocks
from xft.modeling.moe_blocks import LowRankBlock, Operands, TokenMask, weighted_hidden

pytestmark = pytest.mark.numeric

H, INNER, T, RANK, ALPHA = 16, 40, 13, 3, 5.0
FORMS = ("llama", "llama-biases", "phi3", "starcoder2")


def make_block(form="llama", dtype=torch.float64, **changes):
    """A block whose every weight is random, in training mode."""
    torch.manual_seed(0)
    config = small_config(form, hidden_size=H, intermediate_size=INNER, num_hidden_layers=1)
    mlp = AutoModelForCausalLM.from_config(config).get_decoder().layers[0].mlp
    settings = {"num_experts_per_tok": 4, "router_noise": False, "experts": "lora", "rank": RANK}
    settings = MixtureConfig(**settings | {"lora_alpha": ALPHA} | changes)
    block = LowRankBlock(settings, mlp, TokenMask())
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block.to(dtype)


def tokens(count=T, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, H, generator=generator).to(dtype).requires_grad_()


def written_out(block, x):
    """Each expert as a whole MLP: y = sum_i w_i MLP_i(x), token by token."""
    routing = block.router(x)
    first = routing.shared_weight is not None
    rows = []
    for number in range(len(x)):
        pairs = list(zip(routing.indices[number] + first, routing.weights[number], strict=True))
        if first:
            pairs.append((0, routing.shared_weight[number]))
        token = x[number : number + 1]
        rows.append(sum(weight * whole_expert(block, i, token)[0] for i, weight in pairs))
    return torch.stack(rows)


def whole_expert(block, number, x):
    state = dict(block.dense.named_parameters())
    for name, factors in block.experts.items():
        change = factors.lora_B[number] @ factors.lora_A[number]
        state[f"{name}.weight"] = state[f"{name}.weight"] + ALPHA / RANK * change
    return functional_call(block.dense, state, x)


def results(block, x, compute):
    """The output, and the gradients of the tokens, the factors and the router."""
    output = compute(x)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    learned = [*block.experts.parameters(), *block.router.parameters()]
    return [output, *torch.autograd.grad(output, [x, *learned], upstream.to(output.dtype))]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of five tokens, so that an expert has several and the last one is smaller."""
    monkeypatch.setattr(moe_blocks, "BLOCK_BYTES", {True: 5 * INNER * 8})


# Unnormalised weights do not add up to 1, so a bias has a factor too.
ROUTINGS = {"shared": {}, "vanilla": {"shared_expert": False}}
ROUTINGS |= {"unnormalised": {"normalize_routing": False}}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("chosen", [2, 6])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("routing", ROUTINGS)
def test_outputs_and_gradients_are_those_of_experts_written_out(form, chosen, routing):
    block = make_block(form, num_experts_per_tok=chosen, **ROUTINGS[routing])
    ours = results(block, tokens(), block)
    expected = results(block, tokens(), lambda x: written_out(block, x))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)  # the router's weights are fp32


def test_experts_without_tokens_and_no_tokens_have_gradients_of_zero():
    block = make_block(num_experts_per_tok=2)
    block(tokens(1)).sum().backward()
    chosen, _ = block.routing.spread()
    for factors in block.experts.values():
        for gradient in (factors.lora_A.grad, factors.lora_B.grad):
            assert [bool(expert.any()) for expert in gradient] == chosen[0].tolist()
    empty = tokens(0)
    output, *gradients = results(block, empty, block)
    assert output.shape == empty.shape
    assert not any(gradient.any() for gradient in gradients)


def test_under_autocast_the_result_is_near_that_in_fp32():
    block, x = make_block(dtype=torch.float32), tokens(dtype=torch.float32)
    exact = results(block, x, block)
    with torch.autocast("cpu", torch.bfloat16):
        rough = results(block, x, block)
    assert {tensor.dtype for tensor in rough} == {torch.float32}
    for a, b in zip(rough[:2], exact[:2], strict=True):
        assert (a - b).norm() < 0.03 * b.norm()


def test_the_sum_over_the_experts_is_rounded_once():
    """Added to 1 in bf16, each of the other experts' outputs, 1/512, would vanish."""
    weights = torch.tensor([[1.0] + 256 * [1 / 512]])
    wide, factors = (torch.ones(shape).bfloat16() for shape in ((1, 1), (257, 1, 1)))
    operands = Operands(weights, factors, [factors.transpose(0, 1)], [factors], [wide])
    total, _ = weighted_hidden(lambda part: torch.ones_like(part.wide[0]), weights > 0, operands)
    assert (total.dtype, total.item()) == (torch.bfloat16, 1.5)


@pytest.mark.usefixtures("small_blocks")
def test_checkpointing_and_repetition_give_the_same_bytes():
    block, x = make_block(dtype=torch.float32), tokens(dtype=torch.float32)
    recompute = partial(checkpoint, block, use_reentrant=False)
    once, *others = (results(block, x, way) for way in (block, block, recompute))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(once, other, strict=True))


def test_the_values_of_all_experts_are_never_in_memory():
    """The graph keeps the base's two products, and no [T, I] tensor for each chosen expert."""
    block, kept = make_block(num_experts_per_tok=6), []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with hooks:
        block(tokens())
    wide = {t.data_ptr() for t in kept if t.shape == (T, INNER)}
    assert len(wide) == 3  # and the sum over the experts, for the last product
    assert all(t.numel() <= T * INNER for t in kept if t.shape[0] == T)
