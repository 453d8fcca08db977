"""What mixtures compute on a pretended GPU. Other tests compute losses, merges and texts there."""

from collections import Counter
from functools import partial

import pytest
import torch
from backbones import random_dense
from mixtures import init_example, merge_example, tokens
from pretended_device import GPU, pretended, waits_of
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes
from trainings import random_rows

import xft
from xft import library
from xft.checkpoints import in_memory
from xft.modeling import experts, mixing
from xft.modeling.whole_models import load_whole
from xft.training.batches import packed, use_packed_attention

pytestmark = pytest.mark.numeric

LAYERS = 2
# Kinds of experts, and what a block waits for in each pass: a loop needs each expert's tokens.
BLOCKS = {"loop": ("full", ["_to_copy"]), "grouped": ("full", [])}
BLOCKS |= {"low_rank": ("lora", ["nonzero", "_to_copy"])}


def random_mixture(kind: str):
    options = {"num_experts": 4, "num_experts_per_tok": 3, "router_noise": True, "experts": kind}
    model = xft.upcycle(random_dense("mistral"), **options)
    for weight in model.parameters():
        nn.init.normal_(weight.requires_grad_(), std=0.2)
    return model.train()


def batch_of(rows: str) -> dict:
    """Rows of equal length, rows with padding, or packed ones longer than the sliding window."""
    if rows == "packed":
        batch = packed(row_bounds=False)(random_rows([24, 2, 9], prompt=2, kinds=97))
        return {name: batch[name] for name in ("input_ids", "labels", "position_ids")}
    batch = {"input_ids": tokens(), "labels": tokens()}
    if rows == "padded":
        batch["attention_mask"] = (torch.arange(24) >= torch.tensor([[5], [0]])).long()
    return batch


def test_it_refuses_what_cuda_refuses_and_counts_waits():
    with pretended() as gpu:
        here = torch.arange(3)
        there = here.to(GPU)
        draw = partial(torch.rand, 3, device=GPU, generator=torch.Generator())
        joins = lambda: here + there, lambda: torch.cat([there, here]), lambda: here[there]
        for refused in (*joins, there.numpy, draw):
            with pytest.raises(RuntimeError, match=r"another device|numpy"):
                refused()
        assert gpu.waits == ["_to_copy"]
        assert (there[here] + torch.tensor(1)).on_cpu.tolist() == [1, 2, 3]
        assert there.tolist() == there[there >= 0].tolist() == [0, 1, 2]
        assert there.sum().item() == len(there.nonzero()) + 1 == 3
    assert gpu.waits[1:] == ["_to_copy", "index", "_to_copy", "_local_scalar_dense", "nonzero"]


CHECKPOINTING = {"whole": False, "padded": True, "packed": False}


@pytest.mark.parametrize(("rows", "checkpointing"), CHECKPOINTING.items())
def test_only_a_loop_over_experts_waits_inside_a_mixture(rows, checkpointing, monkeypatch):
    """Beside what the dense model waits for, and once for all blocks to find the padding."""

    def learn(model, batch):
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        return loss.detach(), [weight.grad for weight in model.parameters()]

    def waits(model) -> Counter:
        use_packed_attention(model, half_precision=False)
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        return waits_of(learn, model, batch_of(rows))

    of_dense = waits(random_dense("mistral"))
    for name, (kind, own) in BLOCKS.items():
        is_grouped = name == "grouped"
        monkeypatch.setattr(experts, "has_fast_grouped_mm", lambda *_, answer=is_grouped: answer)
        expected = own * LAYERS * (1 + checkpointing) + ["nonzero"] * (rows == "padded")
        assert waits(random_mixture(kind)) - of_dense == Counter(expected), name


def test_models_are_made_mixed_and_merged_where_they_are(monkeypatch):
    def load(*given, state_dict, **options):  # transformers' own use of the device meta
        with _disable_current_modes():
            state = {name: getattr(one, "on_cpu", one) for name, one in state_dict.items()}
            return load_whole(*given, state_dict=state, **options)

    monkeypatch.setattr(in_memory, "fault_of_state", lambda *_: None)  # it uses meta, too
    for module in (library, mixing):
        monkeypatch.setattr(module, "load_whole", load)

    def learned(mixture, batch):
        mixed = xft.Mixing(mixture, lam=0.6, granularity="projection")
        optimizer = mixed.build_optimizer(torch.optim.SGD, {"lr": 1e3}, max_norm=1e-3)
        for _ in range(2):
            mixed.model(**batch).loss.backward()
            optimizer.step()
        assert mixed.metrics()["distance_from_uniform"] > 1e-3
        return mixed.coefficients

    def make(base, batch):
        inits = ({"init": init_example(name)} for name in ("noise", "drop"))
        changes = *inits, {"experts": "lora", "rank": 4}
        methods = merge_example("task_arithmetic"), merge_example("model_stock"), "xft"
        made = []
        for change, method in zip(changes, methods, strict=True):
            mixture = xft.upcycle(base, num_experts=3, num_experts_per_tok=2, **change)
            for name, weight in mixture.named_parameters():
                if name.endswith("lora_B"):
                    weight.data.normal_()
            found = learned(mixture, batch)
            given = {"base": None if method == "xft" else base, "coefficients": found}
            made += [mixture, xft.merge(mixture, method=method, **given)]
        return [model.state_dict() for model in (*made, xft.soup(made[1::2]))]

    waits_of(make, random_dense("llama", num_hidden_layers=1), batch_of("whole"))
