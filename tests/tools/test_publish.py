"""The step `publish` as a process of its own, against a hub on this machine."""

import shlex
import shutil
from pathlib import Path

import pytest
from damage import flip_a_bit
from hub_server import Hub

from xft.artifacts.artifact import create_artifact

TO = "org/merged"
TOKEN = "hf_aTokenThatNobodyMayRead"
CARD = "---\nlibrary_name: transformers\n---\n\n# A dense model made with XFT\n"


def make(model: Path, out: Path, kind: str = "dense") -> Path:
    """An artifact of a kind with the files of a model, and a card."""
    with create_artifact(out, kind) as draft:
        shutil.copytree(model, draft.path, dirs_exist_ok=True)
        (draft.path / "README.md").write_text(CARD)
    return out


@pytest.fixture
def dense(tiny_llama, tmp_path) -> Path:
    return make(tiny_llama, tmp_path / "dense")


@pytest.fixture
def publish(hub: Hub, run_step, monkeypatch):
    """Callable (model, *words): run the step, with a token that may write."""
    hub.writers = {TOKEN}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return lambda model, *words: run_step("publish", "--model", model, "--to", TO, *words)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_without_yes_it_is_told_and_nothing_is_asked(hub: Hub, publish, dense):
    done = publish(dense, "--private")
    assert (done.returncode, done.stderr) == (0, "")
    for text in (f"repository: {TO} (private)", "  # A dense model made with XFT"):
        assert text in done.stdout.splitlines()
    for name, content in contents(dense).items():
        assert any(line.split() == [f"{len(content):,}", name] for line in done.stdout.splitlines())
    command = shlex.join(["xft", "publish", "--model", str(dense), "--to", TO])
    assert done.stdout.endswith(f"\n{command} --private --yes\n")
    assert hub.requests == [] and hub.repositories == {}


@pytest.mark.parametrize(("kind", "private"), [("dense", False), ("sft", True)])
def test_a_model_is_uploaded_in_one_commit(hub: Hub, publish, tiny_llama, tmp_path, kind, private):
    model = make(tiny_llama, tmp_path / kind, kind)
    done = publish(model, "--yes", *["--private"] * private)
    assert done.returncode == 0, done.stderr
    repository = hub.repositories[TO]
    assert (repository.readers is not None) is private
    assert len(repository.commits) == 2  # the hub's first, and ours
    uploaded = dict(repository.commits[repository.head])
    del uploaded[".gitattributes"]
    assert uploaded == contents(model)
    assert f": {hub.url}/{TO}/commit/{repository.head}\n" in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    assert {r.token for r in hub.requests if r.path.startswith("/lfs/")} == {None}


def test_weights_from_earlier_are_named(hub: Hub, publish, dense):
    hub.add(TO, {"model-00001-of-00002.safetensors": b"", "README.md": b""})
    done = publish(dense, "--yes")
    assert done.returncode == 0, done.stderr
    assert "not from this model: model-00001-of-00002.safetensors\n" in done.stdout
    assert hub.repositories[TO].commits[hub.repositories[TO].head]["README.md"] == CARD.encode()


@pytest.mark.parametrize(
    ("prepare", "words", "message"),
    [
        (lambda hub: hub.add(TO, {}), ["--private"], "there already, and public: nothing was upl"),
        (lambda hub: vars(hub).update(lossy=True), [], "holds other content in model.safetensors"),
        (lambda hub: hub.writers.clear(), [], "upload needs a token that may write: set HF_TOKEN"),
        (lambda hub: hub.writers.clear() or hub.tokens.add(TOKEN), [], "403"),
    ],
    ids=["public", "lossy", "unknown", "reader"],
)
def test_an_upload_that_fails_is_told(hub: Hub, publish, dense, prepare, words, message):
    prepare(hub)
    done = publish(dense, "--yes", *words)
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, message in last) == (1, True)
    assert TOKEN not in done.stderr and "Traceback" not in done.stderr
    assert all(len(repository.commits) < 3 for repository in hub.repositories.values())


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (lambda m: flip_a_bit(m / "model.safetensors"), "dense", "model.safetensors was altered"),
        (lambda m: Path(f"{m}.manifest.json").unlink(), "dense", "has no manifest"),
        (lambda m: None, "moe", "is of kind moe, not dense or heal or sft"),
    ],
)
def test_what_is_no_whole_dense_model_is_refused(
    hub, publish, tiny_llama, tmp_path, damage, kind, message
):
    model = make(tiny_llama, tmp_path / "other", kind)
    damage(model)
    done = publish(model, "--yes")
    assert done.returncode == 1 and message in done.stderr
    assert hub.requests == []


def test_a_repository_needs_an_organisation(hub, dense, run_step):
    done = run_step("publish", "--model", dense, "--to", "merged")
    assert "a repository on the hub is named organisation/name" in done.stderr
