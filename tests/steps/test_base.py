"""The step `base`: a dense model is linked or copied, and never changed. The step `ffn`: the
experts' weights are links to the mixture's files, and stay without it.
"""

import os
import shutil
import time
from pathlib import Path

import pytest
from chains import Chain
from damage import flip_a_bit
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from workflow_scripts import base, ffn
from xft.artifacts import manifest
from xft.artifacts.artifact import open_artifact
from xft.artifacts.manifest import find_faults, hash_file, manifest_path, read_manifest
from xft.checkpoints import writer
from xft.common.errors import UserError

SINGLE = "model.safetensors"


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


def test_the_artifact_is_the_model(model, file_hashes):
    before = file_hashes(model)
    (model / "README.md").write_text("not part of the model")
    (model / "LICENSE.txt").write_text("part of it")
    out = run(model)
    assert file_hashes(out) == before | {"LICENSE.txt": hash_file(model / "LICENSE.txt")}
    assert {name: hash_file(model / name) for name in before} == before
    written = open_artifact(out, "base").manifest
    assert {name: file["sha256"] for name, file in written.files.items()} == file_hashes(out)
    assert find_faults(out, written, full=True) == []


def test_shards_and_their_index_are_linked(model, project, file_hashes):
    loaded = AutoModelForCausalLM.from_pretrained(model)
    loaded.save_pretrained(project / "sharded", max_shard_size="40KB")
    shutil.copy(model / "tokenizer.json", project / "sharded")
    out = run("sharded")
    assert file_hashes(out) == file_hashes(project / "sharded")
    assert len(list(out.glob("*.safetensors"))) > 2


@pytest.mark.parametrize("name", ["models/tiny", "../outside"])
def test_links_survive_a_move_of_the_working_directory(
    model, project, tmp_path, monkeypatch, name, file_hashes
):
    """To a model that moves with it, or to one elsewhere that stays."""
    model.rename(project / name)
    before = file_hashes(project / name)
    links = run(name).iterdir()
    assert {link.readlink().is_absolute() for link in links} == {".." in name}
    monkeypatch.chdir(project.rename(tmp_path / "moved"))
    out = Path("results/base")
    assert find_faults(out, open_artifact(out, "base").manifest) == []
    assert file_hashes(out) == before


@pytest.mark.parametrize("linked", ["results", "models"])
def test_links_work_through_linked_folders(model, project, tmp_path, linked, file_hashes):
    """Results on a scratch disk, or models in a shared store."""
    elsewhere = tmp_path / "deep" / "elsewhere"
    elsewhere.mkdir(parents=True)
    if linked == "models":
        shutil.move(project / "models", elsewhere / "models")
        (project / "models").symlink_to(elsewhere / "models")
    else:
        (project / "results").symlink_to(elsewhere)
    assert file_hashes(run("models/tiny")) == file_hashes(project / "models" / "tiny")


def test_other_weights_behind_the_links_are_noticed(model, monkeypatch):
    """Of the same size, header and time, as `cp -p` and `tar` leave it."""
    monkeypatch.setattr(manifest, "SMALL_BYTES", 0)
    out = run(model)
    time.sleep(0.05)  # a tick of the file system's clock
    flip_a_bit(model / SINGLE)
    os.utime(model / SINGLE, (1, 1))
    with pytest.raises(UserError, match=f"{SINGLE}, which was altered: its SHA-256 is not the man"):
        open_artifact(out, "base")


@pytest.fixture(params=[None, 50_000], ids=["one file", "shards"])
def moe(request, tiny_llama, tmp_path, monkeypatch) -> Path:
    """A mixture in one file or in several."""
    if request.param:
        monkeypatch.setattr(writer.write_checkpoint, "__defaults__", (request.param,))
    made = Chain(tmp_path, base=tiny_llama)["moe"]
    assert (len(weights(made)) > 1) == bool(request.param)
    return made


def extract(moe: Path, out: Path) -> Path:
    ffn.main(["--moe", str(moe), "--out", str(out)])
    return out


def weights(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.glob("*.safetensors")}


def disk_bytes(folder: Path) -> int:
    """As `du` counts: each file once."""
    found = {path.stat().st_ino: path.stat().st_blocks for path in folder.rglob("*.safetensors")}
    return 512 * sum(found.values())


def test_the_experts_take_no_disk_space_and_stay_without_the_mixture(moe, tmp_path):
    tensors = {}
    for file in weights(moe).values():
        tensors |= load_file(file)
    used = disk_bytes(tmp_path)
    made = extract(moe, tmp_path / "ffn")
    assert disk_bytes(tmp_path) == used
    for name, file in weights(made).items():
        assert file.samefile(moe / name) and file.stat().st_nlink == 2
    shutil.rmtree(moe)
    assert find_faults(made, read_manifest(manifest_path(made)), full=True) == []
    held = open_artifact(made, "ffn").checkpoint
    assert {*held.names} == {n for n in tensors if ".mlp." in n and ".router." not in n}
    assert all(held.get(name).equal(tensors[name]) for name in held.names)


def test_files_that_cannot_be_linked_are_copied_to_the_same_bytes(moe, tmp_path, mount):
    """Files of the user's, who may change them, and files on another disk."""
    linked = extract(moe, tmp_path / "ffn")
    own = shutil.copytree(moe, tmp_path / "own")
    shutil.copyfile(manifest_path(moe), manifest_path(own))
    for file in weights(own).values():
        file.chmod(0o644)
    for place in (tmp_path / "copied", mount("size=16m") / "ffn"):
        made = extract(own if place.parent == tmp_path else moe, place)
        assert all(file.stat().st_nlink == 1 for file in weights(made).values())
        assert manifest_path(made).read_bytes() == manifest_path(linked).read_bytes()
    assert all(file.stat().st_mode & 0o200 for file in weights(own).values())
