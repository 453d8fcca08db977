"""Mixing and merging: the dense model is the mixing model, at any alpha, lambda and granularity."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import workflow_scripts.modeling  # noqa: F401
from workflow_scripts import dense, ffn, moe, weighted_init
from workflow_scripts.checkpoints.writer import TensorPlan
from workflow_scripts.conversions import mixing_artifact
from workflow_scripts.conversions.merge import ALPHA, merge
from workflow_scripts.modeling.mixing import Mixing

LAMBDA = 0.6
GRANULARITIES = {"layer": (2, 1, 7), "projection": (2, 3, 7), "model": (1, 1, 7)}


@pytest.fixture(scope="module")
def folders(tiny_llama, tmp_path_factory):
    """A mixture whose experts differ, and the FFN weights extracted from it."""
    root = tmp_path_factory.mktemp("mixing")
    moe.main(["--base", str(tiny_llama), "--out", str(root / "upcycled")])
    model = AutoModelForCausalLM.from_pretrained(root / "upcycled")
    torch.manual_seed(1)
    for block in model.moe_blocks:
        for weight in (block.experts.gate_up_proj, block.experts.down_proj):
            weight.data += 0.1 * torch.randn_like(weight)
    model.save_pretrained(root / "moe_sft")
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (root / "moe_sft" / file).write_bytes((root / "upcycled" / file).read_bytes())
    ffn.main(["--moe", str(root / "moe_sft"), "--out", str(root / "ffn")])
    return root


def initial(folders, out, granularity="layer", lam=LAMBDA):
    arguments = ["--moe", folders / "moe_sft", "--ffn", folders / "ffn", "--lam", lam]
    arguments += ["--granularity", granularity, "--out", out]
    weighted_init.main([str(argument) for argument in arguments])
    return out


def merged(folders, weighted, out):
    arguments = ["--moe", folders / "moe_sft", "--ffn", folders / "ffn", "--weighted", weighted]
    dense.main([str(argument) for argument in [*arguments, "--out", out]])
    return out


@pytest.fixture(params=GRANULARITIES)
def trained(request, folders, tmp_path):
    """Coefficients that are not uniform, as training would leave them, with their sources."""
    sources = mixing_artifact.open_sources(folders / "moe_sft", folders / "ffn")
    start = mixing_artifact.open_mixing(initial(folders, tmp_path / "init", request.param), sources)
    assert tuple(start.alpha.shape) == GRANULARITIES[request.param]
    assert not start.alpha.any()
    alpha = torch.randn(start.alpha.shape, generator=torch.Generator().manual_seed(2))
    plan = TensorPlan(ALPHA, "F32", tuple(alpha.shape), lambda: [alpha])
    mixing_artifact.write(tmp_path / "trained", "weighted_trained", plan, start.config, sources)
    return tmp_path / "trained", sources, alpha


def test_dense_logits_are_the_mixing_models(trained, folders, tmp_path):
    weighted, sources, alpha = trained
    mixing = Mixing(sources.moe.checkpoint, sources.ffn.checkpoint, alpha, LAMBDA)
    model = AutoModelForCausalLM.from_pretrained(merged(folders, weighted, tmp_path / "dense"))
    ids = torch.randint(3, 290, (2, 20))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    with torch.no_grad():
        for options in ({}, {"attention_mask": mask}):
            difference = model(ids, **options).logits - mixing.model(ids, **options).logits
            assert difference.abs().max() <= 1e-5


def test_dense_loads_without_this_package_and_is_the_bases_kin(
    folders, tiny_llama, tmp_path, run_python
):
    out = merged(folders, initial(folders, tmp_path / "init"), tmp_path / "dense")
    code = (
        "import sys, json; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(out)!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(out)!r})\n"
        "assert not any(name.startswith('workflow_scripts') for name in sys.modules)\n"
        "print(type(model).__name__, tokenizer('def f():').input_ids[:2])"
    )
    assert run_python(code).startswith("LlamaForCausalLM [")
    config = json.loads((out / "config.json").read_text())
    assert config == json.loads((tiny_llama / "config.json").read_text())
    assert load_file(out / "model.safetensors").keys() == (
        load_file(tiny_llama / "model.safetensors").keys()
    )
    for file in ("tokenizer.json", "generation_config.json"):
        assert (out / file).read_bytes() == (tiny_llama / file).read_bytes()
    assert "lambda, the shared expert's weight: 0.6" in (out / "README.md").read_text()


def test_lambda_1_is_the_shared_expert_bit_for_bit(folders, tiny_llama, tmp_path):
    weighted = initial(folders, tmp_path / "init", lam=1)
    out = load_file(merged(folders, weighted, tmp_path / "dense") / "model.safetensors")
    for name, weight in load_file(tiny_llama / "model.safetensors").items():
        assert torch.equal(out[name], weight)


def test_only_alpha_learns(trained):
    _, sources, alpha = trained
    mixing = Mixing(sources.moe.checkpoint, sources.ffn.checkpoint, alpha, LAMBDA)
    learning = [p for p in mixing.model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learning) == alpha.numel()
    assert torch.equal(mixing.alpha, alpha)


def test_mixing_is_causal_with_and_without_padding(folders, tmp_path):
    sources = mixing_artifact.open_sources(folders / "moe_sft", folders / "ffn")
    for attention in ("eager", "sdpa"):
        mixing = Mixing(
            sources.moe.checkpoint, sources.ffn.checkpoint, torch.zeros(2, 1, 7), LAMBDA
        )
        mixing.model.set_attn_implementation(attention)
        ids = torch.randint(3, 290, (1, 16))
        changed = ids.clone()
        changed[0, -1] = (ids[0, -1] + 1) % 290
        for mask in (None, torch.tensor([[0] * 4 + [1] * 12])):
            with torch.no_grad():
                one = mixing.model(ids, attention_mask=mask).logits[:, 4:-1]
                other = mixing.model(changed, attention_mask=mask).logits[:, 4:-1]
            assert torch.equal(one, other)


@settings(max_examples=30, deadline=None)
@given(lam=st.floats(0, 1), seed=st.integers(0, 2**31), count=st.integers(1, 8))
def test_merge_is_the_formula(lam, seed, count):
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    experts = torch.randn(count, 3, 4, generator=generator, dtype=torch.float64)
    alpha = torch.randn(count, generator=generator)
    exact = lam * shared + (1 - lam) * torch.einsum("i,ioh->oh", alpha.double().softmax(0), experts)
    ours = merge(shared, experts, alpha, lam)
    torch.testing.assert_close(ours.double(), exact, atol=1e-5, rtol=1e-5)
    order = torch.randperm(count, generator=generator)
    permuted = merge(shared, experts[order], alpha[order], lam)
    torch.testing.assert_close(permuted, ours, atol=1e-6, rtol=1e-5)


def test_equal_experts_at_equal_shares_are_that_expert():
    expert = torch.randn(5, 6)
    ours = merge(expert, expert.expand(7, 5, 6), torch.zeros(7), 0.75)
    torch.testing.assert_close(ours, expert, atol=1e-6, rtol=1e-6)


def test_bf16_is_merged_in_fp32_and_rounded_once():
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(40, 40, generator=generator).bfloat16()
    experts = torch.randn(7, 40, 40, generator=generator).bfloat16()
    exact = 0.75 * shared.double() + 0.25 * experts.double().mean(0)
    ours = merge(shared, experts, torch.zeros(7), 0.75)
    assert ours.dtype == torch.float32
    half_ulp = torch.exp2(exact.abs().log2().floor() - 8)
    assert ((ours.bfloat16().double() - exact).abs() <= 1.0001 * half_ulp).all()
