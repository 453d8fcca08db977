"""Step 3: the experts' weights are links to the mixture's files, and stay without it."""

import shutil
from pathlib import Path

import pytest
from chains import Chain
from safetensors.torch import load_file

from workflow_scripts import ffn
from xft.artifacts.artifact import open_artifact
from xft.artifacts.manifest import find_faults, manifest_path, read_manifest
from xft.checkpoints import writer


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
