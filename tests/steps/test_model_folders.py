"""Model folders of others: what is not the model's own file, what contradicts the weights, NaN."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from workflow_scripts import base, moe, soup
from xft.artifacts.artifact import open_artifact
from xft.common.errors import UserError
from xft.estimates.tensors import compute_table
from xft.evaluation.loading import load_model
from xft.modeling.loading import load_whole

SINGLE = "model.safetensors"


@pytest.fixture
def model(tmp_path, tiny_llama) -> Path:
    """A copy of the model, beside a file that is private."""
    (tmp_path / "token").write_text("secret")
    return shutil.copytree(tiny_llama, tmp_path / "model")


def set_config(model: Path, **changes) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))


def change_weights(model: Path, change) -> None:
    tensors = load_file(model / SINGLE)
    change(tensors)
    save_file(tensors, model / SINGLE, metadata={"format": "pt"})


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


def pipe(name: str):
    def put(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        os.mkfifo(model / name)

    return put


def link(name: str, target: str):
    def put(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to(target)

    return put


def link_folder(model: Path) -> None:
    (model.parent / "elsewhere").mkdir()
    (model.parent / "elsewhere" / "x.jinja").touch()
    (model / "additional_chat_templates").symlink_to("../elsewhere")


def configured(**changes):
    return lambda model: set_config(model, **changes)


def weights_as(name: str):
    def put(model: Path) -> None:
        weights = load_file(model / SINGLE)
        (model / SINGLE).unlink()
        torch.save(weights, model / name)

    return put


ANY = (run_base, run_moe, run_soup, evaluate)
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
    (ANY, link("LICENSE", "../token"), "LICENSE leads to .*token, out of the model folder"),
    (ANY, link_folder, "x.jinja leads to .*, out of the model"),
    (ANY, link(SINGLE, "../token"), "model.safetensors leads to .*token, out of the model folder"),
    (ANY, link("NOTICE", "nowhere"), "NOTICE links to nowhere, which is missing"),
    (ANY, link(SINGLE, "nowhere"), "model.safetensors links to nowhere, which is missing"),
    (ANY, link("config.json", "config.json"), "config.json is a link to itself, not a file"),
    (ANY, link("config.json", "/dev/zero"), "config.json is a device, not a file"),
    *(
        (ANY, pipe(name), f"{name} is a named pipe, not a file")
        for name in ("config.json", "tokenizer.json", "chat_template.jinja", SINGLE)
    ),
    # what a folder holds instead of a model
    (ANY, weights_as("adapter_config.json"), "holds a LoRA adapter .*merge_and_unload"),
    (ANY, weights_as("model-q4.gguf"), "Only safetensors are read.* GGUF.*gguf_file"),
    (ANY, weights_as("pytorch_model.bin"), "Only safetensors are read"),
    # configs that must not reach transformers
    (READERS, configured(num_hidden_layers=10**9), "num_hidden_layers = .*: at most 1000 layers"),
    (READERS, configured(deep=[{"n_layer": 10**9}]), "n_layer = 1000000000: at most 1000 layers"),
    (READERS, configured(transformers_weights="a.bin"), "only the usual weight files are read"),
    *(
        (READERS, configured(**{key: value}), f"{key} = .*{OTHERS}")
        for key, value in IMPLEMENTATIONS.items()
    ),
    # configs that contradict the weights
    *(
        ((run_moe, evaluate), configured(**{key: value}), fault)
        for key, value, fault in (
            ("vocab_size", 10**11, r"lm_head\.weight has .*, 32\], .* for \[100000000000, 32\]"),
            ("intermediate_size", 50, r"down_proj\.weight has .*\[32, 48\], .*\[32, 50\]"),
            ("num_key_value_heads", 0, "cannot be loaded: ZeroDivisionError"),
            ("attn_implementation", "unknown", "cannot be loaded: ValueError: .*unknown"),
        )
    ),
    *(
        ((run_base, run_moe), configured(num_hidden_layers=n), f"= {n}, .*hold 2 layers")
        for n in (1, 3)
    ),
    ((evaluate,), configured(num_hidden_layers=1), r"holds model\.layers\.1\..* = 1"),
    ((evaluate,), configured(num_hidden_layers=3), "no weights for"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("step", "change", "fault"),
    [(step, change, fault) for steps, change, fault in REFUSED for step in steps],
)
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
    (artifact / "LICENSE").symlink_to("../token")
    with pytest.raises(UserError, match="LICENSE is not in the manifest"):
        run_moe(artifact)


def test_an_adapter_beside_the_weights_is_not_loaded(model):
    (model / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a LoRA adapter .* beside a model"):
        evaluate(model)


@pytest.mark.parametrize("name", ["eager", "sdpa", None])
def test_transformers_own_implementations_are_used(model, name):
    set_config(model, _attn_implementation=name)
    evaluate(model)


def test_a_byte_order_mark_is_named(model):
    """transformers does not read such a config either."""
    content = (model / "config.json").read_bytes()
    (model / "config.json").write_bytes(b"\xef\xbb\xbf" + content)
    for step in (run_base, evaluate):
        with pytest.raises(UserError, match=r"config\.json begins with a byte order mark"):
            step(model)
    with pytest.raises(OSError, match="not a valid JSON"):
        AutoModelForCausalLM.from_pretrained(model)


# Values


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"])
def test_weights_that_are_not_finite_are_refused(model, name, value):
    change_weights(model, lambda tensors: tensors[name].view(-1)[7].fill_(value))
    fault = f"{model}: {name} holds NaN or infinity"
    noise = ["--init", "noise", "--init-noise", "0.1", "--no-shared-expert"]
    for flags in ([], ["--experts", "lora"], noise):
        with pytest.raises(UserError, match=fault):
            run_moe(model, *flags)
    assert not (model.parent / "moe").exists()
    for read in (run_soup, evaluate, lambda folder: load_whole(AutoModelForCausalLM, folder)):
        with pytest.raises(UserError, match=fault):
            read(model)
