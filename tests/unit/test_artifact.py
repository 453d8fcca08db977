"""Manifests, artifacts that are whole or absent, and the step that verifies them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from workflow_scripts import verify
from workflow_scripts.checkpoints.artifact import create_artifact, open_artifact, write_json
from workflow_scripts.checkpoints.manifest import (
    Manifest,
    manifest_path,
    read_manifest,
)
from workflow_scripts.errors import UserError

# What the process that is killed does: write half an artifact, say so, wait.
WRITER = """
import sys, time
from pathlib import Path
from workflow_scripts import cli
from workflow_scripts.checkpoints.artifact import create_artifact

def main(argv):
    with create_artifact(Path(sys.argv[1]), "moe") as draft:
        (draft.path / "a.txt").write_text("half")
        print("ready", flush=True)
        time.sleep(60)

cli.run("writer", main)
"""


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
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def edit_manifest(artifact, **changes):
    path = manifest_path(artifact)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Writing


def test_manifest_states_sizes_hashes_parameters_and_inputs(tmp_path):
    out = make(tmp_path / "moe", parameters={"seed": 1}, inputs={"base": "abc"})
    stated = json.loads((tmp_path / "moe.manifest.json").read_text())
    assert {key: stated[key] for key in ("format", "kind", "parameters", "inputs")} == {
        "format": 1,
        "kind": "moe",
        "parameters": {"seed": 1},
        "inputs": {"base": "abc"},
    }
    assert stated["files"] == {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in content(out).items()
    }


def test_equal_content_gives_an_equal_manifest(tmp_path):
    first = make(tmp_path / "one" / "moe", parameters={"b": 1, "a": 2}, inputs={"y": "1", "x": "2"})
    again = make(tmp_path / "two" / "moe", parameters={"a": 2, "b": 1}, inputs={"x": "2", "y": "1"})
    assert manifest_path(first).read_bytes() == manifest_path(again).read_bytes()
    assert content(first.parent) == content(again.parent)


@pytest.mark.parametrize(
    "change",
    [
        {"text": "other"},
        {"kind": "moe_sft"},
        {"parameters": {"seed": 1}},
        {"inputs": {"base": "1"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_change_gives_another_id(tmp_path, artifact, change):
    other = make(tmp_path / "other", **change)
    ids = {read_manifest(manifest_path(path)).id for path in (artifact, other)}
    assert len(ids) == 2


def test_known_hashes_are_taken(tmp_path):
    known = {"size": 3, "sha256": "known"}
    with create_artifact(tmp_path / "moe", "moe") as draft:
        (draft.path / "a.txt").write_text("abc")
        draft.known_files["a.txt"] = known
    assert read_manifest(tmp_path / "moe.manifest.json").files == {"a.txt": known}


def test_an_artifact_is_replaced_whole(artifact):
    with create_artifact(artifact, "ffn") as draft:
        (draft.path / "c.txt").write_text("new")
    assert open_artifact(artifact, "ffn").manifest.files.keys() == {"c.txt"}
    assert content(artifact) == {"c.txt": b"new"}
    assert len(list(artifact.parent.iterdir())) == 2


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_is_no_artifact_is_not_replaced(tmp_path, what):
    precious = tmp_path / "precious"
    if what == "folder":
        precious.mkdir()
        (precious / "thesis.txt").write_text("years")
    else:
        precious.write_text("years")
    before = content(tmp_path)
    with pytest.raises(UserError, match="precious is there but is no artifact"):
        make(precious)
    assert content(tmp_path) == before


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "moe").mkdir()
    open_artifact(make(tmp_path / "moe"), "moe")


@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_changes_nothing(tmp_path, error, old):
    out = tmp_path / "moe"
    if old:
        make(out)
    before = content(tmp_path)
    with pytest.raises(error), create_artifact(out, "moe") as draft:
        (draft.path / "a.txt").write_text("half")
        raise error
    assert content(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_process_leaves_no_artifact_and_keeps_the_old_one(tmp_path, repository, sent, old):
    out = tmp_path / "moe"
    if old:
        make(out)
    before = content(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(out)],
        env=os.environ | {"PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(sent)
        _, errors = process.communicate(timeout=30)
    hidden = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    if sent == signal.SIGKILL:
        assert process.returncode == -sent
        assert len(hidden) == 1
    else:
        assert process.returncode == 128 + sent
        assert (hidden, errors) == ([], "")
    visible = {name: data for name, data in content(tmp_path).items() if name[0] != "."}
    assert visible == before
    make(out)
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
@pytest.mark.parametrize("last", [1, 2, 3, 4])
def test_a_stop_between_the_renames_loses_nothing(tmp_path, monkeypatch, last, old):
    """Stop after each of the renames that put an artifact at its place."""
    artifact = tmp_path / "moe"
    if old:
        make(artifact)
    before = content(tmp_path)
    rename, done = Path.rename, []

    def rename_and_stop(path, target):
        result = rename(path, target)
        done.append(target)
        if len(done) == last:
            raise KeyboardInterrupt
        return result

    renames = 4 if old else 2
    with monkeypatch.context() as context:
        context.setattr(Path, "rename", rename_and_stop)
        if last > renames:
            make(artifact, "CONTENT")
            return
        with pytest.raises(KeyboardInterrupt):
            make(artifact, "CONTENT")
    assert content(tmp_path) == before


def test_a_folder_in_which_another_process_works_is_left_alone(tmp_path):
    out = tmp_path / "moe"
    with create_artifact(out, "moe") as draft:
        (draft.path / "a.txt").write_text("slower")
        make(out, "faster")
        assert (draft.path / "a.txt").read_text() == "slower"
    assert (out / "a.txt").read_text() == "slower"


def test_json_is_written_the_same_way_every_time(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2], "a": "é"})
    write_json(tmp_path / "b.json", {"a": "é", "b": [1, 2]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": "é", "b": [1, 2]}


# Opening


def test_a_folder_without_a_manifest_is_hashed(tmp_path, artifact):
    manifest_path(artifact).unlink()
    opened = open_artifact(artifact, "base")
    assert opened.manifest.kind == "folder"
    assert opened.manifest.files["a.txt"]["sha256"] == hashlib.sha256(b"content").hexdigest()
    before = opened.id
    (artifact / "a.txt").write_text("altered")
    assert open_artifact(artifact, "base").id != before


def test_snakemakes_own_mark_is_no_content(artifact):
    (artifact / ".snakemake_timestamp").touch()
    assert open_artifact(artifact, "moe").path == artifact


def test_the_artifact_one_stands_in_is_found(artifact, monkeypatch):
    monkeypatch.chdir(artifact)
    (artifact / "a.txt").unlink()
    with pytest.raises(UserError, match=r"a\.txt is missing"):
        open_artifact(".", "moe")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: (a / "a.txt").unlink(), "a.txt is missing"),
        (lambda a: (a / "a.txt").write_text("longer content"), "a.txt has 14 bytes, not 7"),
        (lambda a: (a / "c.txt").touch(), "c.txt is not in the manifest"),
        (lambda a: (a / "sub" / "c").touch(), "sub/c is not in the manifest"),
        (lambda a: a.rename(a.with_name("x")), "moe is not a folder"),
        (lambda a: edit_manifest(a, parameters={"seed": 2}), "moe.manifest.json was edited"),
        (lambda a: edit_manifest(a, kind="ffn"), "moe.manifest.json was edited"),
        (lambda a: edit_manifest(a, files={}), "moe.manifest.json was edited"),
        (lambda a: edit_manifest(a, id="0"), "moe.manifest.json was edited"),
        (lambda a: edit_manifest(a, format=2), "format 2 is not 1"),
        (lambda a: edit_manifest(a, author="me"), "moe.manifest.json is not a manifest"),
        (lambda a: manifest_path(a).write_text("{}"), "format None is not 1"),
        (lambda a: manifest_path(a).write_text("{"), "moe.manifest.json is not valid JSON"),
    ],
)
def test_what_does_not_fit_its_manifest_is_refused(artifact, damage, message):
    damage(artifact)
    with pytest.raises(UserError, match=message):
        open_artifact(artifact, "moe")


def test_another_kind_is_refused(artifact):
    with pytest.raises(UserError, match="is of kind moe, not ffn or dense"):
        open_artifact(artifact, "ffn", "dense")


# The step `verify`


def test_verify_finds_all_artifacts_below_a_folder(tmp_path, artifact, capsys):
    make(tmp_path / "results" / "dense" / "lam~0.75", kind="dense")
    verify.main([str(tmp_path), "--full"])
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert len(lines) == 2 and all(line.endswith(", fits") for line in lines)
    assert output.err == "2 of 2 artifacts fit their manifests\n"


def test_verify_works_where_one_stands(artifact, capsys, monkeypatch):
    for folder in (artifact, artifact.parent):
        monkeypatch.chdir(folder)
        verify.main(["."])
        assert capsys.readouterr().err == "1 of 1 artifacts fit their manifests\n"


def test_only_full_finds_an_altered_file_of_the_same_size(artifact):
    (artifact / "a.txt").write_text("CONTENT")
    verify.main([str(artifact)])
    with pytest.raises(UserError, match=r"a\.txt was altered"):
        verify.main([str(artifact), "--full"])


def test_verify_reports_every_fault_of_every_artifact(tmp_path, artifact):
    other = make(tmp_path / "results" / "ffn", kind="ffn")
    (artifact / "a.txt").write_text("longer content")
    (artifact / "c.txt").touch()
    (other / "a.txt").unlink()
    with pytest.raises(UserError) as caught:
        verify.main([str(tmp_path)])
    for fault in ("moe/a.txt has 14 bytes", "moe/c.txt is not in", "ffn/a.txt is missing"):
        assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a.rename(a.with_name("x")), "moe is missing, but its manifest is there"),
        (lambda a: manifest_path(a).unlink(), "no manifest beside it and none below it"),
    ],
)
def test_verify_misses_what_is_not_there(artifact, damage, message):
    damage(artifact)
    with pytest.raises(UserError, match=message):
        verify.main([str(artifact)])


def test_verify_fails_as_a_process(artifact, run_step):
    assert run_step("verify", artifact).returncode == 0
    (artifact / "a.txt").unlink()
    result = run_step("verify", artifact)
    assert result.returncode == 1
    assert result.stderr == f"verify: error: {artifact}/a.txt is missing\n"


def test_the_id_is_over_everything_else():
    manifest = Manifest("moe", {"a": {"size": 1, "sha256": "0"}}, {"seed": 1}, {"base": "b"})
    stated = json.loads(manifest.to_json())
    identity = stated.pop("id")
    text = json.dumps(stated, sort_keys=True, separators=(",", ":"))
    assert identity == hashlib.sha256(text.encode()).hexdigest()
