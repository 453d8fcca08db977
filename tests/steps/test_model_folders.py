"""Model folders of others: what cannot be upcycled, what is not the model's own file, what
contradicts the weights, and NaN.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from backbones import SIZES
from damage import change_json, change_tensors
from mixtures import init_example
from transformers import AutoConfig, AutoModelForCausalLM

from workflow_scripts import base, moe, soup
from xft.artifacts.artifact import open_artifact
from xft.common.errors import UserError
from xft.data.tokenizers import load_tokenizer
from xft.estimates.model_sizes import compute_table
from xft.evaluation.model_loading import load_model
from xft.modeling.whole_models import load_whole

SINGLE = "model.safetensors"


@pytest.fixture
def model(tmp_path, tiny_llama) -> Path:
    """A copy of the model, beside a file that is private."""
    (tmp_path / "token").write_text("secret")
    return shutil.copytree(tiny_llama, tmp_path / "model")


def run_base(model: Path) -> None:
    base.main(["--model", str(model), "--out", str(model.parent / "base")])


def run_moe(model: Path, *more: str) -> None:
    moe.main(["--base", str(model), "--out", str(model.parent / "moe"), *more])


def run_soup(model: Path) -> None:
    soup.main(["--models", str(model), str(model), "--out", str(model.parent / "soup")])


def evaluate(model: Path) -> None:
    open_artifact(model, "base", "dense")
    load_model(model, threads=1)


def read_config_alone(model: Path) -> None:
    compute_table(model / "config.json")


def edit(name: str, **changes):
    return lambda model: change_json(model / name, **changes)


def configured(**changes):
    return edit("config.json", **changes)


def weights(change):
    """`change(tensors)` gives the tensors that take the place of the model's."""
    return lambda model: change_tensors(model, change)


def without(part: str):
    return weights(lambda tensors: {n: tensor for n, tensor in tensors.items() if part not in n})


def of_type(model_type: str, **changes):
    """A random model of another architecture in the folder."""

    def put(model: Path) -> None:
        config = AutoConfig.for_model(model_type, **SIZES | changes)
        AutoModelForCausalLM.from_config(config).save_pretrained(model)

    return put


def as_dtype(part: str, dtype: torch.dtype):
    return weights(lambda all: {n: t.to(dtype) if part in n else t for n, t in all.items()})


def lose_bias(model: Path) -> None:
    of_type("llama", mlp_bias=True)(model)
    without("layers.0.mlp.up_proj.bias")(model)


def need_code(model: Path) -> None:
    """A model that transformers loads by code of its folder alone, after it was allowed to."""
    for name, kind in (("config", "AutoConfig"), ("tokenizer_config", "AutoTokenizer")):
        edit(f"{name}.json", model_type="evil", auto_map={kind: "evil.Evil"})(model)
    (model / "evil.py").write_text("open('evil_ran', 'w')\n")


def lose(name: str):
    return lambda model: (model / name).unlink()


def put(name: str, make=os.mkfifo):
    """`make(path)` makes what takes the place of a file; by default a pipe."""

    def change(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        make(model / name)

    return change


def link(name: str, target: str):
    return put(name, lambda path: path.symlink_to(target))


def link_folder(model: Path) -> None:
    (model.parent / "elsewhere").mkdir()
    (model.parent / "elsewhere" / "x.jinja").touch()
    (model / "additional_chat_templates").symlink_to("../elsewhere")


def mark_byte_order(model: Path) -> None:
    content = (model / "config.json").read_bytes()
    (model / "config.json").write_bytes(b"\xef\xbb\xbf" + content)


def weights_as(name: str):
    return lambda model: (model / SINGLE).rename(model / name)


EVERY_SECOND = {"num_experts": 2, "decoder_sparse_step": 2, "num_hidden_layers": 2}
ANY = (run_base, run_moe, run_soup, evaluate)
LOADERS = (run_moe, evaluate)
READERS = (run_base, run_moe, evaluate, read_config_alone)
OTHERS = "only transformers' own implementations are used"
IMPLEMENTATIONS = {
    "_attn_implementation": "someone/kernel:attn",
    "attn_implementation": "paged|someone/kernel",
    "experts_implementation": {"": "eager", "text_config": "someone/kernel@v1"},
    "_attn_implementation_internal": ["someone/kernel"],
}
# Which steps refuse a folder, what is wrong with it, and how it is told.
REFUSED = [
    # what cannot be upcycled
    ((run_base,), lose("config.json"), r"config\.json is missing"),
    ((run_base,), lose("tokenizer.json"), r"has no tokenizer \(tokenizer\.json"),
    ((run_base,), configured(quantization_config={"bits": 4}), "is quantised"),
    ((run_base,), as_dtype("1.self_attn.q_proj", torch.int8), r"q_proj\.weight is I8: .*quantised"),
    ((run_base,), need_code, "needs its own Python code"),
    ((run_base,), without("layers.1.mlp"), "LlamaForCausalLM: 1 of 2 layers have an MLP"),
    ((run_base,), lose_bias, "MLP of layer 0 holds .*It can be upcycled if"),
    ((run_base,), of_type("bitnet"), r"MLP of layer 0 holds down_proj\.weight, ffn_sub_norm"),
    ((run_base,), of_type("gpt2"), "none of its layers have an MLP named"),
    ((run_base,), of_type("qwen2_moe", **EVERY_SECOND), "is a mixture of experts already"),
    ((run_base,), configured(vision_config={}, text_config={}), "holds more than a language model"),
    # what is not the model's own file
    (ANY, link("LICENSE", "../token"), "LICENSE leads to .*token, out of the model folder"),
    (ANY, link_folder, "x.jinja leads to .*, out of the model"),
    (ANY, link(SINGLE, "../token"), "model.safetensors leads to .*token, out of the model folder"),
    (ANY, link(SINGLE, "nowhere"), "model.safetensors links to nowhere, which is missing"),
    (ANY, link("config.json", "config.json"), "config.json cannot be opened: Too many levels"),
    (ANY, link("config.json", "/dev/zero"), "config.json is a pipe or a device, not a file"),
    *(
        (ANY, put(name), f"{name} is a pipe or a device, not a file")
        for name in ("config.json", "tokenizer.json", "chat_template.jinja", SINGLE)
    ),
    # what a folder holds instead of a model, or beside it
    ((evaluate,), link("adapter_config.json", "config.json"), "holds a LoRA adapter .* beside a"),
    (ANY, weights_as("adapter_config.json"), "holds a LoRA adapter .*merge_and_unload"),
    (ANY, weights_as("model-q4.gguf"), r"read\. docs/hub\.md, section Other weights, .*GGUF"),
    (ANY, weights_as("pytorch_model.bin"), "Only safetensors are read"),
    # configs that must not reach transformers
    (READERS, mark_byte_order, r"config\.json begins with a byte order mark"),
    (READERS, configured(num_hidden_layers=10**9), "num_hidden_layers = .*: at most 1000 layers"),
    (READERS, configured(deep=[{"n_layer": 10**9}]), "n_layer = 1000000000: at most 1000 layers"),
    (READERS, configured(transformers_weights="a.bin"), "only the usual weight files are read"),
    *(
        (READERS, configured(**{key: value}), f"{key} = .*{OTHERS}")
        for key, value in IMPLEMENTATIONS.items()
    ),
    # configs that contradict the weights
    (
        LOADERS,
        configured(vocab_size=10**11),
        r"lm_head\.weight has .*, 32\], .* for \[10{11}, 32\]",
    ),
    (LOADERS, configured(num_key_value_heads=0), "cannot be loaded: ZeroDivisionError"),
    (LOADERS, configured(attn_implementation="unknown"), "cannot be loaded: ValueError: .*unknown"),
    ((run_base, run_moe), configured(num_hidden_layers=1), "= 1, .*hold 2 layers"),
    ((run_base, run_moe), configured(num_hidden_layers=3), "= 3, .*hold 2 layers"),
    ((run_moe,), as_dtype(".mlp.", torch.int8), "MLPs' weights are I8. All must be of the same"),
    ((run_moe,), as_dtype(".up_proj.", torch.bfloat16), "MLPs' weights are BF16, F32"),
    ((evaluate,), configured(num_hidden_layers=1), r"holds model\.layers\.1\..* = 1"),
    ((evaluate,), configured(num_hidden_layers=3), "no weights for"),
]


CASES = [(step, change, fault) for steps, change, fault in REFUSED for step in steps]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("step", "change", "fault"), CASES)
def test_a_folder_that_is_no_sound_model_is_refused(model, step, change, fault):
    change(model)
    before = sorted(model.parent.iterdir())
    with pytest.raises(UserError, match=fault):
        step(model)
    assert sorted(model.parent.iterdir()) == before


def test_a_link_within_the_folder_is_its_own_file(model):
    shutil.move(model / "tokenizer.json", model / "kept.json")
    (model / "tokenizer.json").symlink_to("kept.json")
    run_base(model)
    run_soup(model)


@pytest.mark.parametrize("target", ["models--c--d/blobs/x", "models--a--b/refs/x", "token"])
def test_in_the_hubs_cache_only_the_models_own_blobs_are_used(model, target):
    snapshot = model.parent / "models--a--b" / "snapshots" / "commit"
    shutil.copytree(model, snapshot)
    private = model.parent / target
    private.parent.mkdir(parents=True, exist_ok=True)
    private.write_text("secret")
    (snapshot / "LICENSE").symlink_to(private)
    with pytest.raises(UserError, match=r"LICENSE leads to .*, out of the model folder"):
        run_base(snapshot)


def test_links_of_a_base_are_trusted_by_its_manifest(model):
    """A link that somebody adds is not one of them."""
    run_base(model)
    artifact = model.parent / "base"
    run_moe(artifact)
    shutil.rmtree(artifact.parent / "moe")
    (artifact / "LICENSE").symlink_to("../token")
    with pytest.raises(UserError, match="LICENSE is not in the manifest"):
        run_moe(artifact)


def test_code_of_a_folder_does_not_run_and_nobody_is_asked(model, monkeypatch):
    need_code(model)
    asked = []
    monkeypatch.chdir(model.parent)
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    with suppress(UserError):
        load_tokenizer(model)
    assert asked == []
    assert not Path("evil_ran").exists()


@pytest.mark.parametrize("name", ["eager", "sdpa", None])
def test_transformers_own_implementations_are_used(model, name):
    configured(_attn_implementation=name)(model)
    evaluate(model)


# Values


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"])
def test_weights_that_are_not_finite_are_refused(model, name, value):

    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[name].view(-1)[7] = value
        return tensors

    weights(spoil)(model)
    fault = f"{model}: {name} holds NaN or infinity"
    noise = ["--init", init_example("noise"), "--no-shared-expert"]
    for flags in ([], ["--experts", "lora"], noise):
        with pytest.raises(UserError, match=fault):
            run_moe(model, *flags)
    assert not (model.parent / "moe").exists()
    for read in (run_soup, evaluate, lambda folder: load_whole(AutoModelForCausalLM, folder)):
        with pytest.raises(UserError, match=fault):
            read(model)
