"""Every supported backbone, all the way: upcycled, trained, generating, mixed, merged, reloaded."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from backbones import BACKBONES, SIZES
from chains import Chain
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from xft.checkpoints.reader import Checkpoint
from xft.modeling.mixing import Mixing, MixingLogits

MIXING = {"weighted_init": ["--lam", "0.6"]}


@dataclass(frozen=True)
class Case:
    """A random dense model, two mixtures made from it, and the folder of all. Read only."""

    dense: PreTrainedModel
    upcycled: PreTrainedModel
    trained: PreTrainedModel
    folder: Path


@pytest.fixture(scope="module", params=BACKBONES)
def case(request, tmp_path_factory):
    """A backbone, upcycled; `trained`: with experts that differ; and what is merged from these."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param.split("-")[0], **SIZES | BACKBONES[request.param])
    model = AutoModelForCausalLM.from_config(config).eval()
    randomize_biases(model)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder / "base")
    untrained = Chain(folder, {"moe": []}, base=folder / "base")
    upcycled = AutoModelForCausalLM.from_pretrained(untrained["moe"]).eval()
    trained = copy.deepcopy(upcycled)
    for block in trained.moe_blocks:
        for weight in block.experts.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
    trained.save_pretrained(folder / "trained")
    _ = Chain(folder, MIXING, moe_sft=folder / "trained")["dense"]
    return Case(model, upcycled, trained, folder)


def randomize_biases(model):
    """Fresh biases are zero, which would hide that one is lost."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)


def tokens(batch=2, length=24):
    return torch.randint(3, 97, (batch, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_logits(model, expected):
    difference = model(tokens()).logits - expected(tokens()).logits
    assert difference.abs().max() <= 1e-5


def test_step_0_is_the_dense_model_in_both_modes_whatever_the_router_says(case):
    assert_logits(case.upcycled, case.dense)
    other = copy.deepcopy(case.upcycled).train()
    for block in other.moe_blocks:
        for weight in block.router.parameters():
            torch.nn.init.normal_(weight)
    assert_logits(other, case.dense)
    with torch.no_grad():  # and experts that differ matter
        difference = case.trained(tokens()).logits - case.dense(tokens()).logits
    assert difference.abs().max() > 1e-3


@torch.no_grad()
def assert_greedy(model, prompts, generated):
    """Each generated token is, up to rounding, the likeliest by the model without cache."""
    logits = model(torch.cat([prompts, generated], dim=1)).logits[:, prompts.shape[1] - 1 : -1]
    logits[..., model.config.eos_token_id] = -torch.inf
    chosen = logits.gather(2, generated[..., None])[..., 0]
    assert (chosen >= logits.max(dim=2).values - 1e-4).all()


def generate(model, ids, mask, count):
    options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
    return model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]


def test_generation_with_cache_is_the_dense_models(case):
    assert_greedy(case.dense, tokens(), generate(case.upcycled, tokens(), tokens() * 0 + 1, 8))


def test_a_left_padded_batch_generates_what_each_row_does_alone(case):
    long, short = tokens(1, 20), tokens(1, 11)
    batch = torch.cat([long, torch.cat([torch.zeros(1, 9, dtype=torch.long), short], dim=1)])
    together = generate(case.trained, batch, (batch != 0).long(), 6)
    for row, ids in zip(together, (long, short), strict=True):
        assert_greedy(case.trained, ids, row[None])


@torch.no_grad()
def test_padding_changes_no_real_token_and_no_balance(case):
    ids = tokens(batch=1)
    alone = case.trained(ids, labels=ids)
    padding = torch.zeros(1, 7, dtype=torch.long)
    for parts in ([padding, ids], [ids, padding]):
        padded = torch.cat(parts, dim=1)
        mask = (padded != 0).long()
        together = case.trained(
            padded,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            labels=padded.masked_fill(mask == 0, -100),
        )
        real = together.logits[mask.bool()].view_as(alone.logits)
        torch.testing.assert_close(real, alone.logits, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(together.aux_loss, alone.aux_loss)
        for a, b in zip(alone.routing, together.routing, strict=True):
            assert torch.equal(a.load, b.load)


def gradients(model, checkpointing=False):
    torch.manual_seed(3)
    model.train()
    if checkpointing:
        model.activation_checkpointing_enable()
    model(tokens(), labels=tokens()).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_checkpointing_gives_the_same_gradients_to_every_parameter(case):
    plain, checkpointed = (
        gradients(copy.deepcopy(case.trained), checkpointing) for checkpointing in (False, True)
    )
    assert [name for name, gradient in plain.items() if gradient is None] == []
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_save_and_load_keeps_config_weights_and_logits(case):
    again = AutoModelForCausalLM.from_pretrained(case.folder / "trained")
    assert again.config.to_dict() == case.trained.config.to_dict()
    torch.testing.assert_close(again(tokens()).logits, case.trained(tokens()).logits)


def test_the_merged_model_is_the_mixing_model_and_of_the_bases_kind(case):
    moe_checkpoint, extracted = Checkpoint(case.folder / "trained"), Checkpoint(case.folder / "ffn")
    mixing = Mixing(moe_checkpoint, extracted, MixingLogits(torch.zeros(2, 1, 7), None, 0.6))
    mixing.model.eval()
    merged = AutoModelForCausalLM.from_pretrained(case.folder / "dense")
    assert type(merged) is type(case.dense)
    assert_logits(merged, mixing.model)
    ours, base = (case.folder / name for name in ("dense", "base"))
    assert json.loads((ours / "config.json").read_text()) == (
        json.loads((base / "config.json").read_text())
    )
    shapes = [
        {name: tensor.shape for name, tensor in load_file(folder / "model.safetensors").items()}
        for folder in (ours, base)
    ]
    assert shapes[0] == shapes[1]


def test_the_merge_of_equal_experts_is_the_base(case, tmp_path):
    merged = Chain(tmp_path, MIXING, moe=case.folder / "moe")["dense"]
    ours, base = (
        load_file(folder / "model.safetensors") for folder in (merged, case.folder / "base")
    )
    assert ours.keys() == base.keys()
    for name, tensor in base.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=1e-6)


def test_the_documents_list_the_tested_backbones(repository):
    text = (repository / "docs" / "backbones.md").read_text()
    listed = {name for line in text.splitlines() if line.startswith("| `") for name in types(line)}
    assert listed == {name.split("-")[0] for name in BACKBONES}


def types(line):
    """The model types in the first cell of a row: `llama`, `mistral`."""
    return line.split("|")[1].replace("`", "").replace(",", " ").split()
