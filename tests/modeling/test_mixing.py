"""Mixing and merging: the dense model is the mixing model, at any alpha, lambda and granularity."""

from unittest.mock import Mock

import pytest
import torch
from chains import Chain
from interpreter import forked
from mixtures import LAMBDA, learned, plain_gradients, tokens
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence
from trainings import random_rows, train_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from xft.checkpoints.in_memory import LoadedModel
from xft.config.sections import learns
from xft.config.training import MixingTraining
from xft.conversions import coefficients
from xft.conversions.coefficients import mixing_coefficients
from xft.conversions.merged_tensors import merge
from xft.modeling.mixing import Mixing, MixingLogits

pytestmark = pytest.mark.numeric

IDS = tokens(2, 20, 290)
GRANULARITIES = {"layer": (2, 1, 3), "projection": (2, 3, 3), "model": (1, 1, 3)}


def mixing_model(sources, alpha, lam=LAMBDA):
    logits = MixingLogits(alpha, lam)
    return Mixing(sources["moe"].checkpoint, sources["ffn"].checkpoint, logits)


@pytest.fixture(scope="module")
def sources(chain):
    return coefficients.open_sources(chain["moe_sft"], chain["ffn"])


def random_alpha(granularity: str) -> torch.Tensor:
    shape = GRANULARITIES[granularity]
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_dense_logits_are_the_mixing_models(chain, sources, tmp_path, granularity):
    alpha = random_alpha(granularity)
    flags = ["--granularity", granularity]
    merged = learned(chain, tmp_path, lambda start: alpha, *flags)["dense"]
    model = AutoModelForCausalLM.from_pretrained(merged)
    mixing = mixing_model(sources, alpha)
    assert not any(parameter.requires_grad for parameter in mixing.model.parameters())
    mask = torch.ones_like(IDS)
    mask[0, :5] = 0
    with torch.no_grad():
        for options in ({}, {"attention_mask": mask}):
            difference = model(IDS, **options).logits - mixing.model(IDS, **options).logits
            assert difference.abs().max() <= 1e-5


def test_dense_loads_without_this_package_and_is_the_bases_kin(tiny_llama, tmp_path, fork_server):
    out = Chain(tmp_path, {"weighted_init": ["--lam", LAMBDA]}, base=tiny_llama)["dense"]
    code = (
        "import sys, transformers as t; load = t.AutoModelForCausalLM.from_pretrained\n"
        "model, tokenizer = load(sys.argv[1]), t.AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "assert not {'xft', 'workflow_scripts'} & sys.modules.keys()\n"
        "print(type(model).__name__, tokenizer('def f():').input_ids[:2])"
    )
    assert forked("-c", code, out).stdout.startswith("LlamaForCausalLM [")
    for file in ("tokenizer.json", "generation_config.json"):
        assert (out / file).read_bytes() == (tiny_llama / file).read_bytes()


def test_lambda_1_is_the_shared_expert_bit_for_bit(chain, tiny_llama, tmp_path):
    given = {name: chain[name] for name in ("moe_sft", "ffn")}
    out = Chain(tmp_path, {"weighted_init": ["--lam", 1]}, **given)["dense"]
    merged, base = (load_file(folder / "model.safetensors") for folder in (out, tiny_llama))
    torch.testing.assert_close(merged, base, rtol=0, atol=0)


@pytest.mark.parametrize("lam", [0, 0.5, 1])
def test_step_6_learns_where_a_gradient_reaches_the_logits(sources, lam):
    mixing = mixing_model(sources, torch.zeros(GRANULARITIES["layer"]), lam=lam)
    mixing.model(input_ids=IDS, labels=IDS).loss.backward()
    mixing.take_gradients()
    assert any(bool(p.grad.any()) for p in mixing.logits.alpha) is learns(lam)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_plain_form(chain, sources, granularity, checkpointing):
    """From files, and with checkpointing from a mixture in memory."""
    alpha = random_alpha(granularity)
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.randint(3, 290, (2, length), generator=generator) for length in (9, 21, 14)]
    batches = [{"input_ids": ids, "labels": ids} for ids in drawn]
    dense, state = mixing_model(sources, alpha).model, sources["ffn"].path / "model.safetensors"
    loss, alpha_grad = plain_gradients(dense, load_file(state), alpha, batches)

    moe, ffn = sources["moe"].checkpoint, sources["ffn"].checkpoint
    if checkpointing:
        moe = ffn = LoadedModel(AutoModelForCausalLM.from_pretrained(chain["moe_sft"]))
    mixing = Mixing(moe, ffn, MixingLogits(alpha, LAMBDA))
    mixing.model.train()
    if checkpointing:
        mixing.model.activation_checkpointing_enable()
    ours = 0
    for batch in batches:
        output = mixing.model(**batch)
        (output.loss / len(batches)).backward()
        ours += output.loss.item() / len(batches)
    mixing.take_gradients()
    assert ours == pytest.approx(loss, rel=1e-6)
    gradient = torch.stack([parameter.grad for parameter in mixing.logits.alpha])
    # Sums in fp32 were seen to differ from those in fp64 by up to 1.1e-6 of the largest value.
    difference = gradient.view_as(alpha) - alpha_grad
    assert difference.abs().max() <= 1e-5 * alpha_grad.abs().max()


def test_steps_of_step_6_are_those_of_a_plain_training(sources, tiny_llama, tmp_path):
    """By autograd through a merge in each forward pass, with AdamW and the rates written out.

    A step has all rows, in two micro-batches of any order.
    """
    rate, steps = 0.2, 3
    rows = random_rows([9, 21, 14, 12])
    options = MixingTraining(
        max_steps=steps,
        learning_rate=rate,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    mixing = mixing_model(sources, torch.zeros(GRANULARITIES["layer"]))
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    lines = train_model(mixing.model, rows, tokenizer, tmp_path / "out", options, mixing=mixing)

    batch = {
        "input_ids": padded(rows, "input_ids", 0),
        "labels": padded(rows, "labels", -100),
        "attention_mask": (padded(rows, "input_ids", -1) >= 0).long(),
    }
    experts = load_file(sources["ffn"].path / "model.safetensors")
    alpha = torch.zeros(GRANULARITIES["layer"], dtype=torch.float64)
    dense = mixing_model(sources, alpha).model
    mean, square = torch.zeros_like(alpha), torch.zeros_like(alpha)
    for step in range(steps):
        loss, gradient = plain_gradients(dense, experts, alpha.clone(), [batch])
        assert lines[step]["loss"] == pytest.approx(loss, rel=1e-5)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        unbiased = mean / (1 - 0.9 ** (step + 1))
        deviation = (square / (1 - 0.999 ** (step + 1))).sqrt()
        alpha = alpha - rate * (1 - step / steps) * unbiased / (deviation + 1e-8)
    torch.testing.assert_close(mixing.logits.values().double(), alpha, rtol=1e-3, atol=1e-4)


def padded(rows: list[dict], key: str, value: int) -> torch.Tensor:
    values = [torch.tensor(row[key]) for row in rows]
    return pad_sequence(values, batch_first=True, padding_value=value)


def test_an_optimiser_step_moves_the_logits_and_merges_once(sources, monkeypatch):
    counted, alpha = Mock(wraps=merge), random_alpha("projection")
    monkeypatch.setattr("xft.conversions.merged_tensors.merge", counted)
    mixing = mixing_model(sources, alpha)
    optimizer = mixing.build_optimizer(torch.optim.SGD, {"lr": 1000.0}, max_norm=1e-4)
    for _ in range(2):  # micro-batches
        before = mixing.model(IDS, labels=IDS).loss
        (before / 2).backward()
    optimizer.step()
    assert counted.call_count == (1 + 1) * 2 * 3  # at the start and then: layers, projections
    moved = mixing.logits.values()
    assert mixing.gradient_norm > 1e-3
    assert (moved - alpha).norm() == pytest.approx(0.1, rel=0.01)
    again = mixing_model(sources, moved)
    with torch.no_grad():
        after = mixing.model(IDS, labels=IDS)
        assert torch.equal(after.logits, again.model(IDS).logits)
    assert after.loss < before
    shares = moved.softmax(-1)
    metrics = mixing.metrics()
    assert metrics["shares"] == shares.tolist()
    assert metrics["distance_from_uniform"] == (shares - 1 / 3).abs().max().item()
    distances = torch.tensor(metrics["distances_from_uniform"])
    assert torch.equal(distances, (shares - 1 / 3).abs().amax(-1))
    norms = torch.tensor(metrics["grad_norms"])
    assert norms.shape == moved.shape[:2]
    assert norms.norm().item() == pytest.approx(mixing.gradient_norm)
    # Plain descent: each set moved along its gradient, by the clipped norm times the rate.
    expected = norms * (0.1 / norms.norm())
    torch.testing.assert_close((moved - alpha).norm(dim=-1), expected, rtol=0.01, atol=0)


def test_zero_grad_and_closures_are_as_torch_means_them(sources):

    def step(kind, options, is_closed=True) -> tuple:
        mixing = mixing_model(sources, torch.zeros(GRANULARITIES["layer"]))
        optimizer = mixing.build_optimizer(kind, options)

        def closure():
            optimizer.zero_grad()
            loss = mixing.model(IDS, labels=IDS).loss
            loss.backward()
            return loss

        mixing.model(IDS.flip(1), labels=IDS).loss.backward()  # dropped by zero_grad
        before = optimizer.step(closure) if is_closed else (closure(), optimizer.step())[0]
        return before, mixing.logits.values(), closure()

    plain, closed = (step(torch.optim.SGD, {"lr": 100.0}, is_closed) for is_closed in (0, 1))
    assert all(map(torch.equal, plain, closed)) and plain[2] < plain[0]
    options = {"lr": 100.0, "max_iter": 4, "line_search_fn": "strong_wolfe"}
    assert step(torch.optim.LBFGS, options)[2] < plain[2]


def test_each_closure_computes_with_the_logits_at_hand(sources):
    """Also in the middle of a step, where an optimiser tries several."""
    mixing = mixing_model(sources, torch.zeros(GRANULARITIES["layer"]))
    options = {"lr": 100.0, "max_iter": 4, "line_search_fn": "strong_wolfe"}
    optimizer = mixing.build_optimizer(torch.optim.LBFGS, options)
    tried = []

    def closure():
        optimizer.zero_grad()
        loss = mixing.model(IDS, labels=IDS).loss
        loss.backward()
        tried.append((mixing.logits.values(), loss.item()))
        return loss

    optimizer.step(closure)
    assert len({loss for _, loss in tried}) > 2
    for alpha, loss in tried:
        assert mixing_model(sources, alpha).model(IDS, labels=IDS).loss.item() == loss


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (33, 31), (4, 0)])
def test_merging_in_blocks_changes_no_bit(monkeypatch, dtype, shape):
    monkeypatch.setattr("xft.conversions.merged_tensors.MERGE_BLOCK", 50)
    experts = [torch.randn(shape).to(dtype) for _ in range(4)]
    coefficients = mixing_coefficients(torch.randn(3), LAMBDA)
    expected = experts[0].float() * coefficients[0].item()
    for expert, coefficient in zip(experts[1:], coefficients[1:].tolist(), strict=True):
        expected.add_(expert, alpha=coefficient)
    merged = merge(experts, coefficients)
    assert torch.equal(merged.view(torch.int32), expected.view(torch.int32))
