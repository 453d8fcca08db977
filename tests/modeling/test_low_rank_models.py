"""Mixtures of low-rank experts on every backbone: loaded, padded, trained, saved and generating."""

import pytest
import torch
from backbones import BACKBONES, SIZES
from mixtures import low_rank_mixture
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import xft  # noqa: F401


@pytest.fixture(scope="module", params=BACKBONES)
def models(request, tmp_path_factory):
    """A random dense model, and a mixture of it with low-rank experts. Read only."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param.split("-")[0], **SIZES | BACKBONES[request.param])
    dense = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in dense.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp(request.param)
    dense.save_pretrained(folder / "base")
    low_rank_mixture(folder / "base", folder / "moe")
    return dense, AutoModelForCausalLM.from_pretrained(folder / "moe").eval()


@pytest.fixture
def varied(models):
    """The mixture with random factors B, which are put back."""
    generator = torch.Generator().manual_seed(1)
    expand = [p for name, p in models[1].named_parameters() if name.endswith("lora_B")]
    with torch.no_grad():
        for parameter in expand:
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    yield models[1]
    with torch.no_grad():
        for parameter in expand:
            parameter.zero_()
    models[1].zero_grad()
    models[1].eval()


def tokens(batch=2, length=24):
    return torch.randint(3, 97, (batch, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_step_0_is_the_dense_model(models):
    dense, mixture = models
    torch.testing.assert_close(mixture(tokens()).logits, dense(tokens()).logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_factors_matter_and_padding_does_not(models, varied):
    dense, ids = models[0], tokens(1)
    alone = varied(ids, labels=ids)
    assert (alone.logits - dense(ids).logits).abs().max() > 1e-3
    padded = torch.cat([ids, torch.zeros(1, 7, dtype=torch.long)], dim=1)
    mask = (padded != 0).long()
    together = varied(padded, attention_mask=mask, labels=padded.masked_fill(mask == 0, -100))
    real = together.logits[:, : ids.shape[1]]
    torch.testing.assert_close(real, alone.logits, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(together.aux_loss, alone.aux_loss)


def test_checkpointing_gives_the_same_gradients_to_every_learned_parameter(varied):
    def gradients(checkpointing):
        torch.manual_seed(3)
        varied.train().zero_grad()
        if checkpointing:
            varied.activation_checkpointing_enable()
        varied(tokens(), labels=tokens()).loss.backward()
        return {name: p.grad for name, p in varied.named_parameters() if ".mlp.dense." not in name}

    plain, again = gradients(False), gradients(True)
    assert [name for name, gradient in plain.items() if gradient is None] == []
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_save_and_load_keeps_names_and_logits(varied, tmp_path):
    varied.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(again(tokens()).logits, varied(tokens()).logits)
    factors = {n: t for n, t in load_file(tmp_path / "model.safetensors").items() if "lora_" in n}
    down = "model.layers.0.mlp.experts.down_proj.lora_"
    if f"{down}A" in factors:
        assert factors[f"{down}A"].shape == (4, 4, 48)
        assert factors[f"{down}B"].shape == (4, 32, 4)
    assert len(factors) in (8, 12)  # A and B of two or three projections of two layers


@torch.no_grad()
def test_generation_with_cache_is_generation_without(varied):
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    options["attention_mask"] = torch.ones_like(tokens())
    cached, plain = (varied.generate(tokens(), use_cache=use, **options) for use in (True, False))
    assert torch.equal(cached, plain)
