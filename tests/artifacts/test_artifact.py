"""Manifests, and artifacts that are whole or absent."""

import hashlib
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from damage import change_json, flip_a_bit, rewrite
from interpreter import python
from safetensors.torch import save_file

from xft.artifacts import manifest
from xft.artifacts.artifact import create_artifact, open_artifact
from xft.artifacts.manifest import Manifest, hash_files, manifest_path, read_manifest
from xft.checkpoints.writer import TensorSpec
from xft.common.errors import UserError

# What the process does that is killed.
WRITER = """
import os, signal, sys
from pathlib import Path
from xft.artifacts.artifact import create_artifact

with create_artifact(Path(sys.argv[1]), "moe") as draft:
    (draft.path / "a.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""

ONE = "1" * 64
ENTRY = {"size": 1, "sha256": ONE}
TENSORS = {"w": torch.arange(6.0).reshape(2, 3)}


def make(out, text="content", kind="moe", **options):
    with create_artifact(out, kind, **options) as draft:
        (draft.path / "a.txt").write_text(text)
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "b.txt").write_text("other")
    return out


@pytest.fixture
def artifact(tmp_path):
    return make(tmp_path / "results" / "moe")


def content(folder) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def stating(**changes):
    return lambda artifact: change_json(manifest_path(artifact), **changes)


# Writing


def test_manifest_states_sizes_hashes_parameters_and_inputs(tmp_path):
    out = make(tmp_path / "moe", parameters={"seed": 1}, inputs={"base": ONE})
    stated = json.loads((tmp_path / "moe.manifest.json").read_text())
    del stated["id"]
    assert stated == {
        **{"format": 4, "kind": "moe", "parameters": {"seed": 1}, "inputs": {"base": ONE}},
        "files": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in content(out).items()
        },
    }


THERE = {"artifact": make, "folder": lambda out: (out / "thesis").mkdir(parents=True)}
THERE |= {"file": lambda out: out.write_text("years"), "link": lambda out: out.symlink_to("none")}


@pytest.mark.parametrize("what", THERE)
def test_nothing_is_overwritten(tmp_path, what):
    out = tmp_path / "moe"
    THERE[what](out)
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"moe exists, and .* is never overwritten\. Delete"):
        make(out)
    assert content(tmp_path) == before


def test_an_exception_leaves_nothing(tmp_path):
    out = tmp_path / "moe"
    out.mkdir()  # an empty folder is no loss
    with pytest.raises(SystemExit), create_artifact(out, "moe") as draft:
        (draft.path / "a.txt").write_text("half")
        raise SystemExit
    assert list(tmp_path.iterdir()) == [out]
    make(out)
    open_artifact(out, "moe", full=True)


def test_no_manifest_is_there_before_what_it_states(tmp_path, monkeypatch):
    out, renamed, rename = tmp_path / "moe", [], Path.rename
    monkeypatch.setattr(Path, "rename", lambda a, b: renamed.append(b) or rename(a, b))
    make(out)
    assert renamed == [out, manifest_path(out)]


def test_a_killed_process_leaves_no_artifact(tmp_path):
    out = tmp_path / "moe"
    python("-c", WRITER, out, status=-signal.SIGKILL)
    assert [path.name[0] for path in tmp_path.iterdir()] == ["."]
    make(out)
    assert {path.name for path in tmp_path.iterdir()} == {"moe", "moe.manifest.json"}


def test_a_folder_in_which_another_process_works_is_left_alone(tmp_path):
    out = tmp_path / "moe"
    with pytest.raises(UserError, match="moe exists"), create_artifact(out, "moe") as draft:
        (draft.path / "a.txt").write_text("slower")
        make(out, "faster")
        assert (draft.path / "a.txt").read_text() == "slower"
    assert (out / "a.txt").read_text() == "faster"


# Opening


def test_a_folder_without_a_manifest_is_hashed(tmp_path, artifact):
    manifest_path(artifact).unlink()
    opened = open_artifact(artifact, "base")
    assert opened.manifest.kind == "folder"
    assert opened.manifest.files["a.txt"]["sha256"] == hashlib.sha256(b"content").hexdigest()
    before = opened.id
    rewrite(artifact / "a.txt", b"altered")
    assert open_artifact(artifact, "base").id != before


def test_what_does_not_fit_its_manifest_is_refused(tmp_path):
    cases = [
        (lambda a: (a / "a.txt").unlink(), "a.txt is missing"),
        (lambda a: rewrite(a / "a.txt", b"longer content"), "a.txt has 14 bytes, not 7"),
        (lambda a: (a / "c.txt").touch(), "c.txt is not in the manifest"),
        (lambda a: a.rename(a.with_name("x")), "moe is not a folder"),
        (stating(parameters={"a": 2}), "manifest.json was edited"),
        (lambda a: rewrite(a / "a.txt", b"CONTENT"), "a.txt was altered: its SHA-256 is not"),
        (lambda a: manifest_path(a).write_text("{}"), "format None is not 4"),
        (lambda a: manifest_path(a).write_text("{"), "moe.manifest.json is not valid JSON"),
        (stating(author="me"), "json is not a manifest: author: it is unknown"),
        (stating(inputs={"base": ONE + "\n"}), "inputs: base: it is no SHA-256"),
        *(
            (stating(files={name: ENTRY}), f"files: {name!r} is not the path of a file inside")
            for name in ("/etc/passwd", "a/../../x", "", "a//b")
        ),
        *(
            (stating(files={"a": entry}), "files: 'a': it has no size and SHA-256")
            for entry in (3, {"size": 7}, ENTRY | {"size": True}, ENTRY | {"header_sha256": 7})
        ),
    ]
    for number, (damage, message) in enumerate(cases):
        damage(artifact := make(tmp_path / str(number) / "moe"))
        with pytest.raises(UserError, match=re.escape(message)):
            open_artifact(artifact, "moe")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An artifact with a safetensors file and another one, which are both not small."""
    monkeypatch.setattr(manifest, "SMALL_BYTES", 64)
    out = tmp_path / "weights"
    with create_artifact(out, "ffn") as draft:
        save_file(TENSORS, draft.path / "model.safetensors")
        (draft.path / "large.bin").write_bytes(bytes(2**20))
    return out


def test_the_hash_of_a_header_is_stated_also_where_the_writer_hashed_the_file(tmp_path):
    with create_artifact(tmp_path / "moe", "moe") as draft:
        draft.write_tensors([TensorSpec("w", "F32", (2, 3), lambda: [TENSORS["w"]])])
    path = tmp_path / "moe" / "model.safetensors"
    data = path.read_bytes()
    header = data[: 8 + int.from_bytes(data[:8], "little")]
    expected = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    expected |= {"header_sha256": hashlib.sha256(header).hexdigest()}
    assert read_manifest(manifest_path(path.parent)).files == {path.name: expected}
    assert hash_files({path.name: path}) == {path.name: expected}


@pytest.mark.parametrize("position", [7, 40])
def test_an_altered_header_is_noticed_at_once(weights, position):
    flip_a_bit(weights / "model.safetensors", position)
    with pytest.raises(UserError, match=r"model\.safetensors was altered: its header is not"):
        open_artifact(weights, "ffn")


@pytest.mark.parametrize("file", ["model.safetensors", "large.bin"])
def test_only_a_full_check_reads_large_files(weights, file):
    open_artifact(weights, "ffn", full=True)
    flip_a_bit(weights / file)
    open_artifact(weights, "ffn")
    with pytest.raises(UserError, match=f"{file} was altered: its SHA-256 is not the manifest's"):
        open_artifact(weights, "ffn", full=True)


# Protection


def test_files_are_read_only_and_folders_are_not(artifact):
    """An ordinary user can remove them, and Snakemake writes its timestamp into a folder."""
    files = [path for path in artifact.rglob("*") if path.is_file()]
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o444"}
    assert os.access(artifact, os.W_OK)
    assert all(path.stat().st_mode & 0o200 for path in (artifact / "sub", manifest_path(artifact)))
    (artifact / ".snakemake_timestamp").touch()
    open_artifact(artifact, "moe", full=True)


def test_what_a_link_points_to_keeps_its_mode(tmp_path):
    (tmp_path / "model.bin").write_text("the user's")
    mode = (tmp_path / "model.bin").stat().st_mode
    with create_artifact(tmp_path / "base", "base") as draft:
        (draft.path / "model.bin").symlink_to(tmp_path / "model.bin")
    assert (tmp_path / "model.bin").stat().st_mode == mode


def test_the_id_is_over_everything():
    files = {"a": ENTRY}
    manifest = Manifest("moe", files, {"seed": 1}, {"base": ONE})
    stated = json.loads(manifest.to_json())
    identity = stated.pop("id")
    text = json.dumps(stated, sort_keys=True, separators=(",", ":"))
    assert identity == hashlib.sha256(text.encode()).hexdigest()
