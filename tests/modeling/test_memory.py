"""Memory of trainings and conversions."""

from pathlib import Path

import torch
from backbones import save_base
from chains import Chain
from mixtures import mixing_of
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM


def peak_memory(action, folder: Path | None = None) -> int:
    """The most bytes that torch allocates at once in an action.

    Weights below `folder` are mapped, and do not count: torch states the size of the whole file.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        action()
    now, peak = 0, 0
    mapped = {file.stat().st_size for file in folder.rglob("*.safetensors")} if folder else set()
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]" and abs(event.nbytes()) not in mapped:
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def learn_once(model, ids) -> None:
    model(ids, labels=ids).loss.backward()


def test_activation_checkpointing_needs_less_memory(tiny_llama, tmp_path):
    """Apart from the logits. Routing that lived on would keep a whole layer, nearly 0.3."""
    mixture = Chain(tmp_path, base=tiny_llama)["moe"]
    model = AutoModelForCausalLM.from_pretrained(mixture).train()
    ids = torch.randint(3, 290, (4, 64))
    logits = 4 * ids.numel() * model.config.vocab_size
    learn_once(model, ids)  # the gradients are there from now on
    plain = peak_memory(lambda: learn_once(model, ids))
    model.activation_checkpointing_enable({"use_reentrant": False})
    less = peak_memory(lambda: learn_once(model, ids))
    assert less - 3 * logits < 0.2 * (plain - 3 * logits)


def test_conversions_hold_a_layer_at_most_and_mixing_no_expert(tmp_path):
    layers = 40
    sizes = {"num_hidden_layers": layers, "hidden_size": 128, "intermediate_size": 256}
    base = save_base("llama", tmp_path / "base", torch.bfloat16, **sizes)
    dense_ffn = layers * 3 * 128 * 256 * 2  # bytes
    chain = Chain(tmp_path, {"moe": [], "weighted_init": ["--lam", "0.5"]}, base=base)
    for step in ("moe", "ffn", "weighted_init", "dense"):
        peak = peak_memory(lambda step=step: chain[step], tmp_path)
        assert peak < dense_ffn / 2, step  # a layer of the mixture, and what threads still hold

    def mix() -> None:
        mixing = mixing_of(chain)
        learn_once(mixing.model, torch.arange(8)[None])
        mixing.take_gradients()

    # The dense model in fp32, as much for gradients, and something for the rest. On a busy machine
    # the profiler may miss the thread of the backward pass, which allocates the gradients.
    assert 2 * dense_ffn < peak_memory(mix, tmp_path) < 3 * 2 * dense_ffn
