"""The library makes, mixes and merges models on the emulated GPU, as on the CPU."""

import torch
from backbones import random_dense
from gpu_and_cpu import GPU, check_near
from mixtures import init_example, merge_example, tokens

import xft

KINDS = {
    "noise": ({"init": init_example("noise")}, merge_example("task_arithmetic")),
    "drop": ({"init": init_example("drop")}, merge_example("model_stock")),
    "lora": ({"experts": "lora", "rank": 4}, "xft"),
}


def made(base, batch: dict) -> list:
    """Of each kind the mixture, its loss, learned coefficients and merged model; then a soup."""
    found = []
    for options, method in KINDS.values():
        mixture = xft.upcycle(base, num_experts=3, num_experts_per_tok=2, **options)
        torch.manual_seed(0)
        for name, weight in mixture.named_parameters():
            if name.endswith("lora_B"):
                weight.data.copy_(torch.randn(weight.shape))
        mixed = xft.Mixing(mixture, lam=0.6, granularity="projection")
        optimizer = mixed.build_optimizer(torch.optim.SGD, {"lr": 1e3}, max_norm=1e-3)
        mixed.model(**batch).loss.backward()
        optimizer.step()
        given = {"base": None if method == "xft" else base, "coefficients": mixed.coefficients}
        merged = xft.merge(mixture, method=method, **given)
        found += [mixture, mixture.eval()(**batch).loss, mixed.coefficients, merged]
    return [*found, xft.soup(found[3::4])]


def test_models_are_made_mixed_and_merged_there():
    """Without mixing, a merge has the bytes of the CPU's."""
    base, batch = random_dense("llama", num_hidden_layers=2), {"input_ids": tokens()}
    batch["labels"] = batch["input_ids"]
    expected = made(base, batch)
    there = {name: value.to(GPU) for name, value in batch.items()}
    for found, other in zip(made(base.to(GPU), there), expected, strict=True):
        if isinstance(found, torch.Tensor):
            check_near(found, other, 1e-4)
            continue
        assert found.device == GPU
        for name, weight in other.state_dict().items():
            check_near(found.state_dict()[name], weight, 1e-4)
    merged = [xft.merge(model).state_dict() for model in (made(base, there)[0], expected[0])]
    for name, weight in merged[1].items():
        assert torch.equal(merged[0][name].cpu(), weight), name
