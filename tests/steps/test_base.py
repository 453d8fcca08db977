"""The step `base`: a dense model is checked, then linked or copied, and never changed."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from workflow_scripts import base
from xft.artifacts import manifest
from xft.artifacts.artifact import open_artifact
from xft.artifacts.manifest import find_faults, hash_file
from xft.common.errors import UserError
from xft.data.tokenizers import load_tokenizer

SINGLE = "model.safetensors"
REVISION = "0123456789" * 4
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
}


@pytest.fixture
def project(tmp_path, tiny_llama, monkeypatch) -> Path:
    """A working directory that holds the model as models/tiny."""
    folder = tmp_path / "project"
    shutil.copytree(tiny_llama, folder / "models" / "tiny")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def model(project) -> Path:
    return project / "models" / "tiny"


def run(model, out="results/base", *more) -> Path:
    base.main(["--model", str(model), "--out", str(out), *more])
    return Path(out)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hash_file(path) for path in folder.iterdir()}


def targets(artifact: Path) -> list[Path]:
    assert all(path.is_symlink() for path in artifact.iterdir())
    return [path.readlink() for path in artifact.iterdir()]


def test_the_artifact_is_the_model(model):
    before = hashes(model)
    (model / "README.md").write_text("not part of the model")
    (model / "LICENSE.txt").write_text("part of it")
    out = run(model)
    assert hashes(out) == before | {"LICENSE.txt": hash_file(model / "LICENSE.txt")}
    assert {name: hash_file(model / name) for name in before} == before
    written = open_artifact(out, "base").manifest
    assert {name: file["sha256"] for name, file in written.files.items()} == hashes(out)
    assert find_faults(out, written, full=True) == []
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(loaded.lm_head.weight, load_file(model / SINGLE)["lm_head.weight"])
    assert AutoTokenizer.from_pretrained(out).eos_token == "</s>"


def test_an_altered_model_is_noticed(model):
    out = run(model)
    config = (model / "config.json").read_text()
    (model / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json has 2 bytes"):
        open_artifact(out, "base")
    (model / "config.json").write_text(config.replace("1", "2"))
    with pytest.raises(UserError, match=r"config\.json was altered"):
        open_artifact(out, "base")


def test_shards_and_their_index_are_linked(model, project):
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(
        project / "sharded", max_shard_size="40KB"
    )
    shutil.copy(model / "tokenizer.json", project / "sharded")
    out = run("sharded")
    assert hashes(out) == hashes(project / "sharded")
    assert len(list(out.glob("*.safetensors"))) > 2


def test_links_inside_the_working_directory_survive_its_move(model, project, monkeypatch):
    run("models/tiny")
    assert not any(target.is_absolute() for target in targets(Path("results/base")))
    moved = project.rename(project.with_name("moved"))
    monkeypatch.chdir(moved)
    assert find_faults(Path("results/base"), open_artifact("results/base", "base").manifest) == []
    assert hashes(Path("results/base")) == hashes(moved / "models" / "tiny")


@pytest.mark.parametrize("spelling", ["absolute", "relative"])
def test_links_out_of_the_working_directory_survive_moving_the_results(
    model, project, tmp_path, monkeypatch, spelling
):
    outside = model.rename(tmp_path / "outside")
    run(outside if spelling == "absolute" else "../outside")
    assert all(target.is_absolute() for target in targets(Path("results/base")))
    moved = project.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(moved)
    assert hashes(Path("results/base")) == hashes(outside)


@pytest.mark.parametrize("linked", ["results", "models"])
def test_links_work_through_linked_folders(model, project, tmp_path, linked):
    """Results on a scratch disk, or models in a shared store."""
    elsewhere = tmp_path / "deep" / "elsewhere"
    elsewhere.mkdir(parents=True)
    if linked == "models":
        shutil.move(project / "models", elsewhere / "models")
        (project / "models").symlink_to(elsewhere / "models")
    else:
        (project / "results").symlink_to(elsewhere)
    assert hashes(run("models/tiny")) == hashes(project / "models" / "tiny")


def test_models_in_the_hubs_cache_are_links_themselves(model, project):
    """snapshots/x/model.safetensors -> ../../blobs/y"""
    snapshot = project / "models--a--b" / "snapshots" / "x"
    snapshot.mkdir(parents=True)
    shutil.copytree(model, project / "models--a--b" / "blobs")
    for path in model.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert hashes(run(snapshot)) == hashes(model)


def test_the_same_model_gives_the_same_manifest_wherever_it_lies(model, project, tmp_path):
    run(model, "results/base")
    run(shutil.copytree(model, tmp_path / "copy"), "other/base")
    first, other = (Path(f"{name}/base.manifest.json") for name in ("results", "other"))
    assert first.read_bytes() == other.read_bytes()


# What is refused


def put(model_type, **changes):
    """Put a random model of another architecture in the folder."""

    def damage(model):
        config = AutoConfig.for_model(model_type, **SMALL | changes)
        AutoModelForCausalLM.from_config(config).save_pretrained(model)

    return damage


def lose(name):
    return lambda model: (model / name).unlink()


def lose_layer(model):
    tensors = load_file(model / SINGLE)
    kept = {name: tensor for name, tensor in tensors.items() if "layers.1.mlp" not in name}
    save_file(kept, model / SINGLE)


def lose_bias(model):
    put("llama", mlp_bias=True)(model)
    tensors = load_file(model / SINGLE)
    del tensors["model.layers.0.mlp.up_proj.bias"]
    save_file(tensors, model / SINGLE)


def add_tower(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({"vision_config": {}, "text_config": config}))


def lose_shard(model):
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(model, max_shard_size="40KB")
    min(model.glob("model-*")).unlink()


def break_config(model):
    (model / "config.json").write_text("{")


def need_code(model):
    """A model that transformers loads by code of its folder alone, after it was allowed to."""
    files = {"config.json": "AutoConfig", "tokenizer_config.json": "AutoTokenizer"}
    for name, kind in files.items():
        config = json.loads((model / name).read_text())
        own = {"model_type": "evil", "auto_map": {kind: "evil.Evil"}}
        (model / name).write_text(json.dumps(config | own))
    (model / "evil.py").write_text("open('evil_ran', 'w')\n")


def quantise(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))


def to_pickle(model):
    torch.save({}, model / "pytorch_model.bin")
    (model / SINGLE).unlink()


def truncate(model):
    (model / SINGLE).write_bytes((model / SINGLE).read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lose("config.json"), r"config\.json is missing", id="no config"),
        pytest.param(break_config, r"config\.json is not valid JSON", id="bad config"),
        pytest.param(
            lose("tokenizer.json"), r"has no tokenizer \(tokenizer\.json", id="no tokenizer"
        ),
        pytest.param(lose(SINGLE), "Only safetensors are read", id="no weights"),
        pytest.param(to_pickle, "Only safetensors are read", id="pickle"),
        pytest.param(truncate, "is not a whole safetensors file", id="truncated"),
        pytest.param(lose_shard, r"model-00001-of-\d+\.safetensors is missing", id="lost shard"),
        pytest.param(quantise, "is quantised", id="quantised"),
        pytest.param(need_code, "needs its own Python code", id="own code"),
        pytest.param(lose_layer, "LlamaForCausalLM: 1 of 2 layers have an MLP", id="lost layer"),
        pytest.param(lose_bias, "MLP of layer 0 holds .*It can be upcycled if", id="one bias less"),
        pytest.param(
            put("bitnet"), r"MLP of layer 0 holds down_proj\.weight, ffn_sub_norm", id="inner norm"
        ),
        pytest.param(
            put("mixtral", num_local_experts=2), "is a mixture of experts already", id="mixtral"
        ),
        pytest.param(
            put("qwen2_moe", num_experts=2, decoder_sparse_step=2, num_hidden_layers=2),
            "is a mixture of experts already",
            id="some layers mixtures",
        ),
        pytest.param(put("gpt2"), "none of its layers have an MLP named", id="gpt2"),
        pytest.param(add_tower, "holds more than a language model", id="vision tower"),
    ],
)
def test_a_model_that_cannot_be_upcycled_is_refused(model, damage, message):
    damage(model)
    with pytest.raises(UserError, match=message):
        run(model)
    assert not list(model.parents[1].glob("results/*"))


def test_code_of_a_model_folder_does_not_run_and_nobody_is_asked(model, project, monkeypatch):
    need_code(model)
    asked = []
    monkeypatch.setattr("builtins.input", lambda *text: asked.append(text) or "y")
    with suppress(UserError):
        load_tokenizer(model)
    assert asked == []
    assert not Path("evil_ran").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "base.model: there is no folder nowhere"),
        (["../a/b"], r"base.model: there is no folder \.\./a/b"),
        (["some/model"], "pin it: base.revision must be a commit hash"),
        (["some/model", "--revision", "main"], "a branch or a tag can change"),
    ],
)
def test_a_model_that_is_not_there_is_refused(project, arguments, message):
    name, *more = arguments
    with pytest.raises(UserError, match=message):
        run(name, "results/base", *more)


@pytest.mark.parametrize("offline", ["1", pytest.param("0", marks=pytest.mark.slow)])
def test_a_hub_that_cannot_be_reached_is_a_message(project, monkeypatch, run_step, offline):
    """Slow is an endpoint where nobody listens: it is tried for some time."""
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(project / "cache"))
    result = run_step("base", "--model", "a/b", "--revision", REVISION, "--out", "out")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"base: error: a/b at {REVISION} could not be fetched: ")


def test_what_is_in_the_hubs_cache_is_not_fetched_again(model, project, monkeypatch, run_step):
    monkeypatch.setenv("HF_HOME", str(project / "cache"))
    shutil.copytree(model, project / "cache" / "hub" / "models--a--b" / "snapshots" / REVISION)
    result = run_step("base", "--model", "a/b", "--revision", REVISION, "--out", "out")
    assert (result.returncode, result.stderr) == (0, "")
    assert hashes(Path("out")) == hashes(model)
    assert open_artifact("out", "base").manifest.parameters == {
        "model": "a/b",
        "revision": REVISION,
    }


def test_a_copy_is_the_same_artifact_and_needs_the_model_no_longer(model):
    templates = model / "additional_chat_templates"
    templates.mkdir()
    (templates / "tools.jinja").write_text("{{ messages }}")
    linked, copied = run(model, "results/linked"), run(model, "results/copied", "--copy")
    assert open_artifact(linked, "base").id == open_artifact(copied, "base").id
    shutil.rmtree(model)
    assert not any(path.is_symlink() for path in copied.rglob("*"))
    open_artifact(copied, "base", full=True)
    AutoModelForCausalLM.from_pretrained(copied)


def test_verify_notices_other_weights_behind_the_links(model, project, call_step, monkeypatch):
    """Of the same size and header: the time of the file says that it was changed."""
    monkeypatch.setattr(manifest, "SMALL_BYTES", 0)
    call_step("base", "--model", model, "--out", "results/base", cwd=project)
    assert call_step("verify", "results", cwd=project).returncode == 0
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    sealed = (project / "results" / "base.manifest.json").stat()
    weights.write_bytes(content)
    os.utime(weights, ns=(sealed.st_mtime_ns + 10**9,) * 2)
    done = call_step("verify", "results", cwd=project)
    assert done.returncode == 1
    assert "model.safetensors was altered: its SHA-256 is not the manifest's" in done.stderr
