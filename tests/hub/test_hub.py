"""Models and data sets on the hub, from a cache that holds them already: nothing is fetched."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from xft.artifacts.manifest import manifest_path, read_manifest
from xft.data.instructions import read_rows

REVISION = "0123456789abcdef0123456789abcdef01234567"


def cache_entry(cache: Path, kind: str) -> Path:
    """Where the hub's cache keeps org/name at REVISION. `kind` is models or datasets."""
    return cache / f"{kind}--org--name" / "snapshots" / REVISION


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return tmp_path / "hub"


def test_a_cached_model_becomes_a_base_and_is_upcycled(cache, tiny_llama, tmp_path, run_step):
    shutil.copytree(tiny_llama, cache_entry(cache, "models"))
    base, moe = tmp_path / "base", tmp_path / "moe"
    flags = ["--model", "org/name", "--revision", REVISION]
    for done in (
        run_step("base", *flags, "--out", base),
        run_step("moe", "--base", base, "--out", moe),
    ):
        assert done.returncode == 0, done.stderr
    link = base / "model.safetensors"
    assert link.is_symlink() and link.resolve().is_relative_to(cache.resolve())
    assert AutoModelForCausalLM.from_pretrained(base).num_parameters() > 0
    assert (moe / "model.safetensors").is_file()


def test_another_revision_than_the_cached_one_is_not_taken(cache, tiny_llama, tmp_path, run_step):
    shutil.copytree(tiny_llama, cache_entry(cache, "models"))
    other = REVISION[::-1]
    done = run_step("base", "--model", "org/name", "--revision", other, "--out", tmp_path / "base")
    assert done.returncode == 1
    assert f"org/name at {other} could not be fetched" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "base").exists()


def write_dataset(folder: Path) -> None:
    """A data set of two splits, as a repository on the hub holds one."""
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        rows = [{"instruction": f"{split} {i}", "response": "r", "other": i} for i in range(3)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_cached_data_set_becomes_parquet(cache, tmp_path, run_step, split):
    write_dataset(cache_entry(cache, "datasets"))
    out = tmp_path / "data" / "name.parquet"
    flags = ["--train", "org/name", "--revision", REVISION, "--split", split]
    for _ in range(2):  # over an earlier one
        done = run_step("fetch_data", *flags, "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    rows, bad = read_rows(out, "instruction", "response")
    assert [row.instruction for row in rows] == [f"{split} {i}" for i in range(3)]
    assert bad == []
    assert set(out.parent.iterdir()) == {out, manifest_path(out)}
    assert read_manifest(manifest_path(out)).parameters["split"] == split


def test_a_local_folder_is_not_taken_for_the_data_set(cache, tmp_path, run_step):
    write_dataset(cache_entry(cache, "datasets"))
    other = tmp_path / "org" / "name"
    other.mkdir(parents=True)
    (other / "train.jsonl").write_text('{"instruction": "other", "response": "r"}\n')
    out = tmp_path / "name.parquet"
    flags = ["--train", "org/name", "--revision", REVISION]
    assert run_step("fetch_data", *flags, "--out", out, cwd=tmp_path).returncode == 0
    assert read_rows(out, "instruction", "response")[0][0].instruction == "train 0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "dev"], f"org/name at {REVISION}, split dev, cannot be read: "),
        (["--revision", REVISION[::-1]], f"org/name at {REVISION[::-1]} could not be fetched: "),
    ],
    ids=["split", "revision"],
)
def test_what_a_data_set_does_not_have_is_named(cache, tmp_path, run_step, words, message):
    write_dataset(cache_entry(cache, "datasets"))
    flags = ["--train", "org/name", "--revision", REVISION, *words]
    done = run_step("fetch_data", *flags, "--out", tmp_path / "out" / "x", cwd=tmp_path)
    assert done.returncode == 1
    assert f"fetch_data: error: {message}" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_cached_file_of_rows_is_linked(cache, tmp_path, run_step):
    folder = cache_entry(cache, "datasets")
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text('{"instruction": "a", "response": "b"}\n')
    out = tmp_path / "data" / "rows.jsonl"
    flags = ["--train", "org/name/rows.jsonl", "--revision", REVISION]
    done = run_step("fetch_data", *flags, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.is_symlink() and out.read_text() == (folder / "rows.jsonl").read_text()
