"""The functions on models in memory. tests/modeling/test_backbones.py has every form of a model."""

import copy
from itertools import chain
from pathlib import Path

import pytest
import torch
from backbones import random_dense
from documents import ROOT, blocks
from interpreter import python
from mixtures import random_mixture, tokens
from peft import LoraConfig, get_peft_model
from test_memory import peak_memory
from transformers import AutoModelForCausalLM

import xft

SIZES = {"num_experts": 4, "num_experts_per_tok": 3}
LARGER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 8}


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("resources").symlink_to(ROOT / "resources")
    names = {}
    assert {"upcycle", "Mixing", "merge", "save", "soup"} <= {*dir(xft)}
    for block in blocks(ROOT / "docs" / "library.md"):
        if block.language == "python":
            exec(compile(block.text, block.where, "exec"), names)
    merged, learned = (xft.merge(names["mixture"], **keys) for keys in ({}, {"lam": 0.75}))
    for name, value in merged.state_dict().items():
        assert value.equal(learned.state_dict()[name])
    assert not torch.allclose(names["mixing"].coefficients[..., 1:], torch.tensor(0.25 / 3))


def test_task_arithmetic_goes_beyond_the_merged_model():
    base, mixture = random_dense("llama"), random_mixture("llama")
    plain = xft.merge(mixture).state_dict()
    beyond = xft.merge(mixture, base=base, method="task_arithmetic", scale=2.0).state_dict()
    for name, start in base.state_dict().items():
        torch.testing.assert_close(beyond[name], 2 * plain[name] - start)


def test_dtype_mode_and_generation_stay_and_no_model_is_there_twice():
    base = random_dense("llama", **LARGER).to(torch.bfloat16).eval()
    base.generation_config.eos_token_id = [2, 5]
    made = []
    peak = peak_memory(lambda: made.append(xft.upcycle(base, **SIZES)))
    (mixture,) = made
    assert (mixture.dtype, mixture.training) == (torch.bfloat16, False)
    assert mixture.generation_config.eos_token_id == [2, 5]
    assert peak < 1.25 * nbytes(mixture)
    peak = peak_memory(lambda: made.append(xft.merge(mixture)))
    assert peak < 1.25 * nbytes(made[1])


@pytest.mark.parametrize("backbone", ["llama", "gpt_neox"])  # whose head has another name in files
def test_each_tensor_keeps_its_dtype(backbone):
    """Norms in fp32 beside bf16, and experts that were tuned in fp32."""
    base = random_dense(backbone).to(torch.bfloat16)
    for name, parameter in base.named_parameters():
        if "norm" in name or parameter is base.get_output_embeddings().weight:
            parameter.data = torch.randn_like(parameter, dtype=torch.float32)
    mixture = xft.upcycle(base, **SIZES)
    for block in mixture.moe_blocks:
        torch.nn.init.normal_(block.float().experts.down_proj)
    merged = xft.merge(mixture, lam=0.5).state_dict()
    for name, value in base.state_dict().items():
        if ".mlp." not in name:
            assert mixture.state_dict()[name].dtype == value.dtype, name
            assert merged[name].dtype == value.dtype and merged[name].equal(value), name
    block, down = mixture.moe_blocks[0], next(n for n in merged if "4h_to_h.w" in n or "down" in n)
    shared = block.shared_expert.get_parameter(down.partition(".mlp.")[2])
    torch.testing.assert_close(merged[down], shared / 2 + block.experts.down_proj.mean(0) / 2)


def nbytes(model) -> int:
    return sum(value.nbytes for value in chain(model.parameters(), model.buffers()))


def test_of_low_rank_experts_only_what_the_settings_say_learns():
    for train_rest, others in (("frozen", False), ("lora", False), ("full", True)):
        mixture = xft.upcycle(random_dense("llama"), experts="lora", train_rest=train_rest)
        for name, parameter in mixture.named_parameters():
            learns = others if ".mlp." not in name else ".mlp.dense." not in name
            assert parameter.requires_grad == learns, (train_rest, name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda dense: xft.upcycle(dense, num_expert=4), "did you mean num_experts"),
        (lambda dense: xft.upcycle(xft.upcycle(dense)), "is a mixture of experts already"),
        (lambda dense: xft.upcycle(get_peft_model(dense, LoraConfig())), r"merge_and_unload\(\)"),
        (lambda dense: xft.upcycle(torch.nn.Linear(2, 2)), "is a Linear, not a model of transf"),
        (lambda dense: xft.upcycle(dense.to(torch.float8_e5m2)), "Load the model without quantis"),
        (lambda dense: xft.merge(dense), "no mixture. Make one of it with xft.upcycle"),
        (lambda dense: xft.Mixing(xft.upcycle(dense), lam=2), "lam = 2: must be a decimal number"),
        (lambda dense: xft.merge(xft.upcycle(dense, shared_expert=False)), "no shared expert"),
        (
            lambda dense: xft.merge(xft.upcycle(dense), method="model_stock"),
            "method = model_stock: give the dense model as base",
        ),
        (lambda dense: xft.soup([dense]), "a mean needs at least two models"),
    ],
    ids=range(10),
)
def test_what_cannot_be_done_is_told(call, message):
    with pytest.raises(xft.UserError, match=message):
        call(random_dense("llama"))


def test_a_mixture_is_pickled_and_copied_like_its_base(tmp_path):
    """Another process, which knows nothing of it, reads it and pads as it does."""
    mixture, mask = random_mixture("llama").eval(), torch.ones_like(tokens())
    mask[0, :9] = 0
    program = (
        "import sys, torch; model, ids, mask = torch.load(sys.argv[1], weights_only=False)\n"
        "torch.save(model(ids, attention_mask=mask).logits, sys.argv[1])"
    )
    torch.save((copy.deepcopy(mixture), tokens(), mask), tmp_path / "given")
    python("-c", program, tmp_path / "given")
    assert torch.load(tmp_path / "given").equal(mixture(tokens(), attention_mask=mask).logits)


@pytest.mark.parametrize("backbone", ["llama-tied", "starcoder2"])
def test_a_mixing_model_is_saved_whole(backbone, tmp_path):
    mixing, dense = xft.Mixing(random_mixture(backbone)), random_dense(backbone)
    mixing.model.save_pretrained(tmp_path)
    saved, info = type(dense).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and saved.state_dict().keys() == dense.state_dict().keys()
    with torch.no_grad():
        for model in (saved, copy.deepcopy(mixing.model)):
            assert model(tokens()).logits.equal(mixing.model(tokens()).logits)


def test_a_changed_config_outlives_saving_and_merging_as_in_a_dense_model(tmp_path):
    dense = random_dense("llama").eval()
    mixture = xft.upcycle(dense, **SIZES)
    for model in (dense, mixture):
        model.config.use_cache, model.config.pad_token_id, model.config.mine = False, 5, {"a": [1]}
        model.config.rope_parameters = {**model.config.rope_parameters, "factor": 8.0}
        model.resize_token_embeddings(101)
    for name in ("model.embed_tokens", "lm_head"):  # the rows that were added are random
        mixture.get_submodule(name).load_state_dict(dense.get_submodule(name).state_dict())
    for model, folder in ((dense, tmp_path / "dense"), (mixture, tmp_path / "mixture")):
        model.save_pretrained(folder)
    dense, mixture = map(AutoModelForCausalLM.from_pretrained, sorted(tmp_path.iterdir()))
    merged, aside = xft.merge(mixture), {"_name_or_path": None, "architectures": None}
    assert merged.config.to_dict() | aside == dense.config.to_dict() | aside
    for name, value in dense.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], value)
    with torch.no_grad():
        torch.testing.assert_close(mixture(tokens()).logits, dense(tokens()).logits)
