"""Bad input to the conversions, and disks that do not take their output."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chains import Chain
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, SeedOssConfig

from workflow_scripts import base, dense, ffn, moe, weighted_init
from xft.artifacts import artifact, manifest
from xft.artifacts.manifest import hash_file, manifest_path, read_manifest
from xft.common.errors import UserError

STEPS = {step.__name__.split(".")[-1]: step for step in (base, moe, ffn, weighted_init, dense)}
SINGLE = "model.safetensors"


def run(step: str, out: Path, **flags) -> Path:
    """Run a step in this process: run("ffn", out, moe=folder)."""
    words = [word for flag, value in flags.items() for word in (flag_name(flag), str(value))]
    STEPS[step].main([*words, "--out", str(out)])
    return out


def flag_name(keyword: str) -> str:
    return "--" + keyword.replace("_", "-")


def make(folder: Path, model: Path, *moe_flags: str) -> dict[str, Path]:
    """All artifacts from the base to the dense model; the mixture stays untrained."""
    sizes = ["--num-experts", "4", "--num-experts-per-tok", "2"]
    made = Chain(folder, {"base": ["--model", model], "moe": [*sizes, *moe_flags]})
    same_names = {name: made[name] for name in ("base", "moe", "ffn", "dense")}
    return same_names | {"weighted": made["weighted_init"]}


@pytest.fixture(scope="module")
def chain(tmp_path_factory, tiny_llama) -> dict[str, Path]:
    """Artifacts that belong together. Read only."""
    return make(tmp_path_factory.mktemp("chain"), tiny_llama)


@pytest.fixture(scope="module")
def other(tmp_path_factory, tiny_llama) -> dict[str, Path]:
    """The same from another seed: the same shapes, but of another mixture."""
    return make(tmp_path_factory.mktemp("other"), tiny_llama, "--seed", "7")


def copy_artifact(source: Path, folder: Path) -> Path:
    shutil.copy(manifest_path(source), folder)
    return shutil.copytree(source, folder / source.name)


# What belongs together


def test_manifests_name_their_inputs(chain):
    ids = {name: read_manifest(manifest_path(path)).id for name, path in chain.items()}
    inputs = {name: read_manifest(manifest_path(path)).inputs for name, path in chain.items()}
    both = {"moe": ids["moe"], "ffn": ids["ffn"]}
    assert inputs == {
        "base": {},
        "moe": {"base": ids["base"]},
        "ffn": {"moe": ids["moe"]},
        "weighted": both,
        "dense": both | {"weighted": ids["weighted"]},
    }


@pytest.mark.parametrize(
    ("step", "foreign", "message"),
    [
        ("weighted_init", ["ffn"], "was not extracted from .* but from another mixture"),
        ("weighted_init", ["moe"], "was not extracted from .* but from another mixture"),
        ("dense", ["ffn"], "was not extracted from .* but from another mixture"),
        ("dense", ["weighted"], "belongs to another ffn than"),
        ("dense", ["moe", "ffn"], "belongs to another ffn than"),
    ],
)
def test_parts_of_another_mixture_are_refused(tmp_path, chain, other, step, foreign, message):
    flags = {name: chain[name] for name in ("moe", "ffn")}
    flags |= {"lam": "0.5"} if step == "weighted_init" else {"weighted": chain["weighted"]}
    flags |= {name: other[name] for name in foreign}
    with pytest.raises(UserError, match=message):
        run(step, tmp_path / "out", **flags)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("step", "flags", "message"),
    [
        ("moe", {"base": "moe"}, "is of kind moe, not base or dense"),
        ("moe", {"base": "ffn"}, "is of kind ffn, not base or dense"),
        ("ffn", {"moe": "base"}, "is of kind base, not moe or moe_sft"),
        ("dense", {"weighted": "ffn", "moe": "moe", "ffn": "ffn"}, "is of kind ffn, not weighted_"),
        ("dense", {"weighted": "weighted", "moe": "moe", "ffn": "moe"}, "is of kind moe, not ffn"),
    ],
)
def test_an_artifact_of_another_kind_is_refused(tmp_path, chain, step, flags, message):
    with pytest.raises(UserError, match=message):
        run(step, tmp_path / "out", **{flag: chain[name] for flag, name in flags.items()})


def test_a_folder_without_a_manifest_is_no_ffn_of_any_mixture(tmp_path, chain):
    bare = shutil.copytree(chain["ffn"], tmp_path / "ffn")
    with pytest.raises(UserError, match="was not extracted from"):
        run("weighted_init", tmp_path / "out", moe=chain["moe"], ffn=bare, lam="0.5")


@pytest.mark.parametrize("lam", ["abc", "1.5", "-0.1", "nan", ""])
def test_a_lambda_that_is_none_is_refused(tmp_path, chain, call_step, lam):
    result = call_step(
        *("weighted_init", "--moe", chain["moe"], "--ffn", chain["ffn"], f"--lam={lam}"),
        *("--out", tmp_path / "out"),
    )
    assert result.returncode == 1
    assert result.stderr == (
        f"weighted_init: error: --lam = {lam}: must be a decimal number from 0 to 1\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lam", ["0", "1", ".5", "0.750", "1."])
def test_every_lambda_from_0_to_1_is_taken(tmp_path, chain, lam):
    out = run("weighted_init", tmp_path / "out", moe=chain["moe"], ffn=chain["ffn"], lam=lam)
    assert json.loads((out / "config.json").read_text())["shared_expert_weight"] == float(lam)


# Models that do not fit


def test_vanilla_upcycling_has_nothing_to_merge(tmp_path, chain):
    STEPS["moe"].main(
        ["--base", str(chain["base"]), "--no-shared-expert", "--out", str(tmp_path / "moe")]
    )
    with pytest.raises(UserError, match=r"has no shared expert \(vanilla upcycling\)"):
        run("ffn", tmp_path / "ffn", moe=tmp_path / "moe")


def test_a_dense_model_has_no_experts(tmp_path, tiny_llama):
    with pytest.raises(UserError, match="no layer holds experts: not an upcycled model"):
        run("ffn", tmp_path / "ffn", moe=tiny_llama)


def test_an_upcycled_model_is_not_upcycled_again(tmp_path, chain):
    bare = shutil.copytree(chain["moe"], tmp_path / "moe")
    with pytest.raises(UserError, match="XftLlamaForCausalLM is a mixture of experts already"):
        run("moe", tmp_path / "out", base=bare)


@pytest.mark.parametrize(
    ("dtypes", "message"),
    [
        ({"gate_proj": torch.int8, "up_proj": torch.int8, "down_proj": torch.int8}, "are I8"),
        ({"up_proj": torch.bfloat16}, "are BF16, F32"),
        ({"down_proj": torch.float8_e4m3fn}, "are F32, F8_E4M3"),
    ],
    ids=["integers", "mixed", "float8"],
)
def test_weights_of_an_unfit_dtype_are_refused(tmp_path, tiny_llama, dtypes, message):
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    tensors = load_file(model / SINGLE)
    for name, tensor in tensors.items():
        for projection, dtype in dtypes.items():
            if f".{projection}." in name:
                tensors[name] = tensor.to(dtype)
    save_file(tensors, model / SINGLE)
    with pytest.raises(UserError, match=f"the MLPs' weights {message}. All must be of the same"):
        run("moe", tmp_path / "out", base=model)


def test_a_base_whose_config_names_no_class_goes_all_the_way(tmp_path, tiny_llama):
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    del config["architectures"]
    (model / "config.json").write_text(json.dumps(config))
    made = make(tmp_path / "results", model)
    assert json.loads((made["dense"] / "config.json").read_text()) == config
    assert "A llama of the base's architecture" in (made["dense"] / "README.md").read_text()


# Artifacts that were damaged


def rewrite(file, content: bytes):
    """Replace a file by other bytes, even if it is read-only."""
    file.unlink()
    file.write_bytes(content)


def truncate(folder):
    file = folder / SINGLE
    rewrite(file, file.read_bytes()[:-8])


def alter_config(folder):
    file = folder / "config.json"
    rewrite(file, file.read_bytes().replace(b"2", b"3", 1))


def alter_last_value(folder):
    content = (folder / SINGLE).read_bytes()
    rewrite(folder / SINGLE, content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "does not fit its manifest: .*safetensors has"),
        (lambda a: (a / "config.json").unlink(), r"does not fit .*config\.json is missing"),
        (alter_config, r"does not fit its manifest: .*config\.json was altered"),
        (lambda a: (a / "extra").touch(), "extra is not in the manifest. Make it again"),
        (
            lambda a: manifest_path(a).write_text(
                manifest_path(a).read_text().replace('"num_experts": 4', '"num_experts": 5')
            ),
            r"moe\.manifest\.json was edited",
        ),
    ],
    ids=["truncated", "lost", "altered config", "extra", "edited manifest"],
)
def test_a_damaged_input_is_refused(tmp_path, chain, damage, message):
    damaged = copy_artifact(chain["moe"], tmp_path)
    damage(damaged)
    with pytest.raises(UserError, match=message):
        run("ffn", tmp_path / "ffn", moe=damaged)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moe", "moe.manifest.json"]


def test_another_lambda_in_a_config_is_noticed(tmp_path, chain):
    weighted = copy_artifact(chain["weighted"], tmp_path)
    config = weighted / "config.json"
    rewrite(config, config.read_bytes().replace(b"0.75", b"0.85"))
    with pytest.raises(UserError, match=r"config\.json was altered: its SHA-256 is not"):
        run("dense", tmp_path / "out", weighted=weighted, moe=chain["moe"], ffn=chain["ffn"])


@pytest.mark.parametrize(
    ("step", "given", "altered"),
    [
        ("moe", ["base"], "base"),
        ("moe_sft", ["moe", "data"], "moe"),
        ("ffn", ["moe"], "moe"),
        ("weighted_init", ["moe", "ffn", "lam"], "moe"),
        ("weighted_init", ["moe", "ffn", "lam"], "ffn"),
        ("weighted_trained", ["weighted", "moe", "ffn", "data"], "moe"),
        ("weighted_trained", ["weighted", "moe", "ffn", "data"], "weighted"),
        ("dense", ["weighted", "moe", "ffn"], "ffn"),
        ("dense", ["weighted", "moe", "ffn"], "weighted"),
        ("eval", ["model", "dataset", "sandbox"], "model"),
    ],
)
def test_every_step_can_check_every_byte_first(
    tmp_path, chain, call_step, repository, step, given, altered
):
    flags = chain | {"model": chain["dense"], "lam": "0.5", "data": repository / "rows"}
    flags["sandbox"] = "none"
    flags["dataset"] = repository / "resources" / "problems.jsonl"
    flags[altered] = copy_artifact(flags[altered], tmp_path)
    alter_last_value(flags[altered])
    words = [word for flag in given for word in (f"--{flag}", flags[flag])]
    result = call_step(step, *words, "--out", tmp_path / "out", "--verify", "full")
    assert result.returncode == 1
    fault = f"{flags[altered] / SINGLE} was altered: its SHA-256 is not the manifest's"
    assert f"{step}: error: {flags[altered]} does not fit its manifest: {fault}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_without_it_values_of_large_files_are_taken_as_they_are(tmp_path, chain, monkeypatch):
    monkeypatch.setattr(manifest, "SMALL_BYTES", 0)
    altered = copy_artifact(chain["moe"], tmp_path)
    alter_last_value(altered)
    run("ffn", tmp_path / "ffn", moe=altered)


def test_damage_in_a_folder_without_a_manifest_is_seen_too(tmp_path, tiny_llama):
    model = shutil.copytree(tiny_llama, tmp_path / "model")
    truncate(model)
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        run("moe", tmp_path / "moe", base=model)


def test_no_step_changes_its_inputs(tmp_path, chain):
    def all_hashes():
        folder = chain["base"].parent
        return {path: hash_file(path) for path in folder.rglob("*") if path.is_file()}

    before = all_hashes()
    sources = {name: chain[name] for name in ("moe", "ffn")}
    run("moe", tmp_path / "moe", base=chain["base"])
    run("ffn", tmp_path / "ffn", moe=chain["moe"])
    run("weighted_init", tmp_path / "weighted", lam="0.5", **sources)
    run("dense", tmp_path / "dense", weighted=chain["weighted"], **sources)
    assert all_hashes() == before


# Disks


@pytest.mark.parametrize("kilobytes", [4, 100])
def test_a_full_disk_is_one_message_and_leaves_nothing(mount, call_step, chain, kilobytes):
    disk = mount(f"size={kilobytes}k")
    result = call_step("moe", "--base", chain["base"], "--out", disk / "moe")
    assert result.returncode == 1
    assert result.stderr.startswith(f"moe: error: No space left on device: {disk / 'moe'} needs 0.")
    assert result.stderr.endswith(". Nothing was changed.\n")
    assert len(result.stderr.splitlines()) == 1
    assert list(disk.iterdir()) == []


def test_a_full_disk_keeps_the_artifact_before(mount, call_step, chain):
    disk = mount("size=1m")
    standing = copy_artifact(chain["moe"], disk)
    before = {path: hash_file(path) for path in standing.iterdir()}
    (disk / "filler").write_bytes(bytes(200_000))
    arguments = ["moe", "--base", chain["base"], "--out", standing, "--num-experts", "20"]
    assert call_step(*arguments).returncode == 1
    assert {path: hash_file(path) for path in standing.iterdir()} == before
    assert call_step("verify", "--full", standing).returncode == 0
    assert {path.name for path in disk.iterdir()} == {"moe", "moe.manifest.json", "filler"}


def test_a_read_only_disk_is_one_message(mount, call_step, tiny_llama):
    disk = mount("size=1m,ro")
    result = call_step("base", "--model", tiny_llama, "--out", disk / "base")
    assert result.returncode == 1
    assert result.stderr.startswith("base: error: Read-only file system (")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_one_message(tmp_path, call_step, tiny_llama):
    tmp_path.chmod(0o500)
    result = call_step("base", "--model", tiny_llama, "--out", tmp_path / "base")
    tmp_path.chmod(0o700)
    assert result.returncode == 1
    assert result.stderr.startswith("base: error: Permission denied (")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_in_the_way_is_one_message(tmp_path, call_step, tiny_llama, out):
    (tmp_path / "file").write_text("precious")
    result = call_step("base", "--model", tiny_llama, "--out", tmp_path / out)
    assert result.returncode == 1
    assert result.stderr.startswith("base: error: ")
    assert len(result.stderr.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "precious"


# Inputs that go away while they are read

SHORTEN_WHILE_WRITING = """
import os, sys
from workflow_scripts import dense
from xft.cli import flags, running
from xft.artifacts import artifact

write_checkpoint = artifact.write_checkpoint

def disturbed(folder, plans):
    weights = sys.argv[2] + "/model.safetensors"
    os.chmod(weights, 0o600)
    os.truncate(weights, 4096)
    return write_checkpoint(folder, plans)

artifact.write_checkpoint = disturbed
running.run("dense", dense.main)
"""


@pytest.fixture
def vanishes(monkeypatch):
    """Callable (folder): let it vanish when a step begins to write."""
    write_checkpoint = artifact.write_checkpoint

    def vanish(folder: Path) -> None:
        def disturbed(*arguments):
            shutil.rmtree(folder)
            return write_checkpoint(*arguments)

        monkeypatch.setattr(artifact, "write_checkpoint", disturbed)

    return vanish


@pytest.fixture
def words(chain, tmp_path) -> dict[str, list]:
    """The arguments of each step, which writes `out`; the first input is a copy of its own."""
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    own = {name: copy_artifact(chain[name], inputs) for name in ("base", "moe")}
    out = ["--out", tmp_path / "made" / "out"]
    mixing = ["--ffn", chain["ffn"], "--weighted", chain["weighted"]]
    return {
        "moe": ["--base", own["base"], *out],
        "ffn": ["--moe", own["moe"], *out],
        "dense": ["--moe", own["moe"], *mixing, *out],
    }


@pytest.mark.parametrize("step", ["moe", "dense"])
def test_an_input_that_vanishes_is_one_message_and_leaves_nothing(step, words, vanishes, call_step):
    vanishes(words[step][1])
    result = call_step(step, *words[step])
    assert result.returncode == 1
    assert result.stderr.startswith(f"{step}: error: No such file or directory (")
    assert len(result.stderr.splitlines()) == 1
    assert list(words[step][-1].parent.iterdir()) == []


def test_weights_that_are_open_may_vanish(words, chain, vanishes, call_step):
    vanishes(words["ffn"][1])
    assert call_step("ffn", *words["ffn"]).returncode == 0
    out = words["ffn"][-1]
    assert (out / SINGLE).read_bytes() == (chain["ffn"] / SINGLE).read_bytes()


def test_an_input_that_shrinks_stops_the_step(words, call_step, repository):
    """The kernel stops a program that reads past the end of a mapped file."""
    source, out = words["dense"][1], words["dense"][-1]
    whole = (source / SINGLE).read_bytes()
    command = [sys.executable, "-c", SHORTEN_WHILE_WRITING, *map(str, words["dense"])]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    assert subprocess.run(command, env=environment).returncode == -signal.SIGBUS
    assert not out.exists() and not manifest_path(out).exists()
    (source / SINGLE).write_bytes(whole)
    assert call_step("dense", *words["dense"]).returncode == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "out.manifest.json"]


def test_an_mlp_with_dropout_is_refused_before_anything_is_written(tmp_path, tokenizer, run_step):
    """Names and shapes do not tell of it: only the backbone's own MLP does."""
    config = SeedOssConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        residual_dropout=0.1,
    )
    base, out = tmp_path / "base", tmp_path / "moe"
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    words = ["--base", base, "--out", out, "--num-experts", 2, "--num-experts-per-tok", 2]
    done = run_step("moe", *words)
    assert done.returncode == 1
    (message,) = done.stderr.splitlines()
    assert message.startswith("moe: error: an MLP of class SeedOssMLP cannot be upcycled")
    assert "dropout" in message
    assert not out.exists()
    settings = json.loads((base / "config.json").read_text()) | {"residual_dropout": 0.0}
    (base / "config.json").write_text(json.dumps(settings))
    assert run_step("moe", *words).returncode == 0
