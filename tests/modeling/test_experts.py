"""Routed experts against a plain loop over tokens, in all forms and all implementations."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from xft.checkpoints.layout import MLP_FORMS
from xft.modeling import experts as module
from xft.modeling.experts import Experts, MlpShape

pytestmark = pytest.mark.numeric

R, H, INNER, T, K = 5, 8, 16, 11, 3
IDLE = 3  # the expert that gets no token from `routed`
FORMS = list(itertools.product([True, False], [False, True]))
OURS = ["loop", "grouped"]


@pytest.fixture
def force(monkeypatch):
    """Callable (way): make our own implementation compute by "loop" or "grouped"."""

    def choose(way: str) -> None:
        monkeypatch.setattr(module, "has_fast_grouped_mm", lambda rows, *weights: way == "grouped")

    return choose


def make(gated=True, bias=False, implementation="eager", dtype=torch.float32, act_fn=torch.tanh):
    torch.manual_seed(0)
    config = SimpleNamespace(_experts_implementation=implementation)
    form = next(form for form in MLP_FORMS if form.gated == gated)
    experts = Experts(config, R, MlpShape(form, H, INNER, act_fn, bias))
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return experts.to(dtype)


def routed(tokens=T, k=K, dtype=torch.float32):
    """Hidden states, indices of distinct experts but never IDLE, weights in fp32 or better."""
    generator = torch.Generator().manual_seed(1)
    busy = torch.tensor([expert for expert in range(R) if expert != IDLE])
    index = busy[torch.rand(tokens, R - 1, generator=generator).argsort(1)[:, :k]]
    hidden = torch.randn(tokens, H, generator=generator).to(dtype)
    weights = torch.rand(tokens, k, generator=generator)
    weights = weights.to(torch.promote_types(dtype, torch.float32))
    return hidden.requires_grad_(), index, weights.requires_grad_()


def plain(experts, hidden, index, weights):
    """The definition, token by token."""
    rows = []
    for token, chosen in enumerate(index.tolist()):
        row = torch.zeros(H, dtype=hidden.dtype)
        for slot, expert in enumerate(chosen):
            row = row + weights[token, slot] * plain_expert(experts, hidden[token], expert)
        rows.append(row)
    return torch.stack(rows)


def plain_expert(experts, x, number):
    name = "gate_up_proj" if experts.has_gate else "up_proj"
    inner = getattr(experts, name)[number] @ x
    if experts.has_bias:
        inner = inner + getattr(experts, f"{name}_bias")[number]
    inner = torch.tanh(inner[:INNER]) * inner[INNER:] if experts.has_gate else torch.tanh(inner)
    output = experts.down_proj[number] @ inner
    return output + experts.down_proj_bias[number] if experts.has_bias else output


def gradients(experts, inputs, compute):
    """Output of compute(hidden, index, weights), then the gradients of inputs and parameters."""
    hidden, index, weights = inputs
    output = compute(hidden, index, weights)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    wanted = [x for x in (hidden, weights, *experts.parameters()) if x.requires_grad]
    return [output, *torch.autograd.grad(output, wanted, upstream.to(output.dtype))]


def assert_all_close(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("k", [1, R - 1])
@pytest.mark.parametrize(("gated", "bias"), FORMS)
@pytest.mark.parametrize("implementation", ["batched_mm", "grouped_mm", *OURS])
def test_results_are_those_of_a_plain_loop(gated, bias, k, implementation, force, monkeypatch):
    if implementation in OURS:
        force(implementation)
        implementation = "eager"
    else:
        monkeypatch.setattr(Experts, "compute_sorted", None)
    experts = make(gated, bias, implementation)
    expected = gradients(experts, routed(k=k), lambda *inputs: plain(experts, *inputs))
    assert_all_close(gradients(experts, routed(k=k), experts), expected)


@pytest.mark.parametrize("bias", [False, True])
def test_no_tokens(bias):
    experts = make(bias=bias)
    hidden, index, weights = routed(tokens=0)
    output = experts(hidden, index, weights)
    output.sum().backward()
    assert output.shape == hidden.grad.shape == (0, H)
    assert weights.grad.shape == (0, K)
    assert all(p.grad is not None and not p.grad.any() for p in experts.parameters())


@pytest.mark.parametrize("way", OURS)
def test_under_autocast_products_are_bf16_and_gradients_fp32(way, force):
    force(way)
    seen = []

    def act_fn(x):
        seen.append(x.dtype)
        return torch.tanh(x)

    experts = make(bias=True, act_fn=act_fn)
    with torch.autocast("cpu", torch.bfloat16):
        ours = gradients(experts, routed(), experts)
    assert set(seen) == {torch.bfloat16}
    assert {x.dtype for x in ours} == {torch.float32}
    for a, b in zip(ours, gradients(experts, routed(), experts), strict=True):
        assert (a - b).norm() < 0.02 * b.norm()


@pytest.mark.parametrize("way", OURS)
def test_the_sum_over_experts_is_fp32_and_rounded_once(way, force):
    """Experts that only scale by a power of 2 have exact outputs, so each rounding shows."""
    force(way)
    experts = make(gated=False, act_fn=lambda x: x, dtype=torch.bfloat16)
    scales = 2.0 ** torch.arange(R)
    with torch.no_grad():
        experts.up_proj.copy_(torch.eye(INNER, H).expand(R, INNER, H))
        experts.down_proj.copy_(torch.eye(H, INNER) * scales[:, None, None])
    hidden, index, weights = routed(tokens=200, dtype=torch.bfloat16)
    assert weights.dtype == torch.float32
    output = experts(hidden, index, weights)
    exact = hidden.double() * (weights.double() * scales[index]).sum(1, keepdim=True)
    assert output.dtype == torch.bfloat16
    half_ulp = torch.exp2(exact.abs().log2().floor() - 8)
    assert ((output.double() - exact).abs() <= 1.001 * half_ulp).all()


@pytest.mark.parametrize("frozen", ["experts", "gate_up_proj", "down_proj", "hidden", "weights"])
def test_what_is_frozen_changes_no_other_gradient(frozen):
    experts = make()
    hidden, index, weights = routed()
    leaves = {"hidden": hidden, "weights": weights, "experts": experts}
    leaves |= dict(experts.named_parameters())
    leaves[frozen].requires_grad_(False)
    expected = gradients(experts, (hidden, index, weights), lambda *inputs: plain(experts, *inputs))
    assert_all_close(gradients(experts, (hidden, index, weights), experts), expected)


def test_when_the_grouped_kernel_is_used(monkeypatch):
    for changes, weight, capability, expected in (
        ({}, (R, H, INNER), (9, 0), True),
        ({}, (R, H, INNER), (8, 9), False),
        ({}, (R, H, INNER + 4), (9, 0), False),
        ({"is_cuda": False}, (R, H, INNER), (9, 0), False),
        ({"__len__": lambda _: 0}, (R, H, INNER), (9, 0), False),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, own=capability: own)
        rows = {"is_cuda": True, "dtype": torch.bfloat16, "device": "cuda", "__len__": lambda _: T}
        rows = type("Rows", (), rows | changes)()
        assert module.has_fast_grouped_mm(rows, torch.empty(weight)) is expected


def test_the_grouped_kernel_is_not_used_for_unaligned_weights(monkeypatch):
    """ZeRO-2 lays all weights in one tensor, one after another. The kernel wants 16 bytes."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    about = {"is_cuda": True, "dtype": torch.bfloat16, "device": "cuda", "__len__": lambda _: T}
    rows = type("Rows", (), about)()
    flat = torch.empty(4 + 2 * R * H * INNER, dtype=torch.bfloat16)
    for start, expected in ((0, True), (4, False)):
        up, down = flat[start : start + 2 * R * H * INNER].view(2, R, H, INNER)
        assert module.has_fast_grouped_mm(rows, up, down) is expected
