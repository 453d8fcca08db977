"""Models that another trainer tuned: which are taken in place of a training, and what follows."""

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from chains import Chain
from damage import change_json, change_tensors
from transformers import AutoModelForCausalLM, AutoTokenizer
from working_folder import wants

import xft  # noqa: F401 (registers the model type)
from xft.artifacts.artifact import open_artifact
from xft.common.errors import UserError
from xft.config.sections import mixture_settings


def tuned(source: Path, out: Path) -> Path:
    """What a trainer leaves that changed every weight, as `save_pretrained` writes it."""
    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.config.use_cache, model.config.pad_token_id = False, 1
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(source, pad_token="</s>").save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def mixture(tiny_llama, tmp_path_factory) -> Path:
    """A mixture that another trainer tuned. Read only."""
    folder = tmp_path_factory.mktemp("elsewhere")
    return tuned(Chain(folder, base=tiny_llama)["moe"], folder / "mixture")


def take(call_step, model: Path, base: Path, out: Path) -> str:
    """Take a tuned model. What the step tells."""
    done = call_step("base", "--model", model, "--tuned-from", base, "--out", out)
    if done.returncode:
        raise UserError(done.stderr)
    return done.stderr


def test_a_tuned_model_is_linked_as_it_is(call_step, mixture, tiny_llama, tmp_path, file_hashes):
    dense = tuned(tiny_llama, tmp_path / "dense")
    for model, kind in ((mixture, "moe_sft"), (dense, "sft")):
        before = file_hashes(model)
        take(call_step, model, tiny_llama, tmp_path / kind)
        assert file_hashes(model) == before == file_hashes(tmp_path / kind)
        assert open_artifact(tmp_path / kind, kind).known_manifest.inputs.keys() == {"base"}


DOWN = "model.layers.0.mlp.experts.down_proj"
TEMPLATE = r"not made of .*: tokenizer \(chat template\) differs"
EPSILON = "was not made of .*model: rms_norm_eps differs"


def weights(change):
    """`change(tensors)` gives the tensors that take the place of the model's."""
    return lambda model, _: change_tensors(model, change)


FAULTS = [
    (lambda model, _: change_json(model / "config.json", num_experts=3), "has the shape"),
    (lambda model, _: (model / "chat_template.jinja").write_text("{{ messages }}"), TEMPLATE),
    (lambda _, base: change_json(base / "config.json", rms_norm_eps=1e-5), EPSILON),
    (weights(lambda ts: ts | {DOWN: ts[DOWN] * torch.nan}), "down_proj holds NaN"),
    (weights(lambda ts: {n: ts[n] for n in ts if "router" not in n}), "has no weights for .*rout"),
    (weights(lambda ts: ts | {f"{DOWN}.lora_A": ts[DOWN].clone()}), "lora_A, which nothing reads"),
]


@pytest.mark.parametrize(("change", "fault"), FAULTS)
def test_what_no_step_can_use_is_refused(call_step, mixture, place, change, fault):
    """And told before anything runs, unless values of weights are wrong."""
    model, base = shutil.copytree(mixture, place / "mixture"), place / "model"
    change(model, base)
    with pytest.raises(UserError, match=fault):
        take(call_step, model, base, place / "out")
    assert not (place / "out").exists()
    moe = mixture_settings(json.loads((model / "config.json").read_text()))
    with nullcontext() if "NaN" in fault else pytest.raises(UserError, match=f"moe_sft.*{fault}"):
        wants(moe_sft={"model": "mixture"}, moe=moe).check_models()


def test_another_end_of_texts_is_told(call_step, mixture, tiny_llama, tmp_path):
    assert "eos_token_id" not in take(call_step, mixture, tiny_llama, tmp_path / "same")
    model = shutil.copytree(mixture, tmp_path / "model")
    for file, ends, told in (
        ("generation_config.json", [1, 7], "is [1] and [1, 7], in the base's [1] and [1]."),
        ("config.json", 7, "is [7] and [1, 7], in the base's [1] and [1]."),
    ):
        change_json(model / file, eos_token_id=ends)
        assert told in take(call_step, model, tiny_llama, tmp_path / file)


def test_a_padding_token_that_was_added_can_be_taken_away(call_step, mixture, tiny_llama, tmp_path):
    """As the message says. tests/checkpoints/test_model_files.py: without a row for it."""
    model, given = AutoModelForCausalLM.from_pretrained(mixture), tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(mixture, pad_token="<added>")
    model.resize_token_embeddings(len(tokenizer))
    for saved in (model, tokenizer):
        saved.save_pretrained(given)
    fault = r"vocab_size differs.*embeddings\((\d+)\), and save the base's tokenizer into the fold"
    with pytest.raises(UserError, match=fault) as told:
        take(call_step, given, tiny_llama, tmp_path / "out")
    model.resize_token_embeddings(int(re.search(fault, str(told.value))[1]))
    for saved in (model, AutoTokenizer.from_pretrained(tiny_llama)):
        saved.save_pretrained(given)
    take(call_step, given, tiny_llama, tmp_path / "out")


def test_weights_beside_low_rank_experts_that_changed_are_told(call_step, tiny_llama, tmp_path):
    low_rank = ["--num-experts", "4", "--num-experts-per-tok", "3", "--experts", "lora"]
    moe = Chain(tmp_path, {"moe": [*low_rank, "--rank", "2"]}, base=tiny_llama)["moe"]
    plain = shutil.copytree(moe, tmp_path / "plain", copy_function=shutil.copyfile)
    # Only what a tuning changes, in its own dtype.
    change_tensors(plain, lambda all: {n: t + 1 if "experts" in n else t for n, t in all.items()})
    assert "should be the base's" not in take(call_step, plain, tiny_llama, tmp_path / "kept")
    told = take(call_step, tuned(moe, tmp_path / "changed"), tiny_llama, tmp_path / "out")
    weights = 2 * (4 + 3 + 2) + 3  # attention, MLP and norms of two layers; the others
    untuned = take(call_step, moe, tiny_llama, tmp_path / "untuned")
    assert ["all routed experts are equal" in text for text in (told, untuned)] == [False, True]
    assert f"{weights} weights that should be the base's differ: model.layers.0.mlp.dense." in told
