"""The step `base`: a dense model is linked or copied, and never changed."""

import os
import shutil
import time
from pathlib import Path

import pytest
from damage import flip_a_bit
from transformers import AutoModelForCausalLM

from workflow_scripts import base
from xft.artifacts import manifest
from xft.artifacts.artifact import open_artifact
from xft.artifacts.manifest import find_faults, hash_file
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


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hash_file(path) for path in folder.iterdir()}


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


def test_shards_and_their_index_are_linked(model, project):
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(
        project / "sharded", max_shard_size="40KB"
    )
    shutil.copy(model / "tokenizer.json", project / "sharded")
    out = run("sharded")
    assert hashes(out) == hashes(project / "sharded")
    assert len(list(out.glob("*.safetensors"))) > 2


@pytest.mark.parametrize("name", ["models/tiny", "../outside"])
def test_links_survive_a_move_of_the_working_directory(model, project, tmp_path, monkeypatch, name):
    """To a model that moves with it, or to one elsewhere that stays."""
    model.rename(project / name)
    before = hashes(project / name)
    links = run(name).iterdir()
    assert {link.readlink().is_absolute() for link in links} == {".." in name}
    monkeypatch.chdir(project.rename(tmp_path / "moved"))
    out = Path("results/base")
    assert find_faults(out, open_artifact(out, "base").manifest) == []
    assert hashes(out) == before


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


def test_other_weights_behind_the_links_are_noticed(model, monkeypatch):
    """Of the same size, header and time, as `cp -p` and `tar` leave it."""
    monkeypatch.setattr(manifest, "SMALL_BYTES", 0)
    out = run(model)
    time.sleep(0.05)  # a tick of the file system's clock
    flip_a_bit(model / SINGLE)
    os.utime(model / SINGLE, (1, 1))
    with pytest.raises(UserError, match=f"{SINGLE}, which was altered: its SHA-256 is not the man"):
        open_artifact(out, "base")
