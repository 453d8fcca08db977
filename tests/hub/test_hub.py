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


def test_a_cached_model_becomes_a_base(cache, tiny_llama, tmp_path, run_step):
    shutil.copytree(tiny_llama, cache_entry(cache, "models"))
    base = tmp_path / "base"
    done = run_step("base", "--model", "org/name", "--revision", REVISION, "--out", base)
    assert done.returncode == 0, done.stderr
    link = base / "model.safetensors"
    assert link.is_symlink() and link.resolve().is_relative_to(cache.resolve())
    assert AutoModelForCausalLM.from_pretrained(base).num_parameters() > 0


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


def test_a_cached_data_set_becomes_parquet(cache, tmp_path, run_step):
    """Over an earlier one, and not the local folder of that name."""
    write_dataset(cache_entry(cache, "datasets"))
    other = tmp_path / "org" / "name"
    other.mkdir(parents=True)
    (other / "test.jsonl").write_text('{"instruction": "other", "response": "r"}\n')
    out = tmp_path / "data" / "name.parquet"
    flags = ["--train", "org/name", "--revision", REVISION, "--split"]
    for split in ("train", "test"):
        done = run_step("fetch_data", *flags, split, "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    rows, bad = read_rows(out, "instruction", "response")
    assert [row.instruction for row in rows] == [f"test {i}" for i in range(3)]
    assert bad == []
    assert set(out.parent.iterdir()) == {out, manifest_path(out)}
    assert read_manifest(manifest_path(out)).parameters["split"] == "test"


def test_what_a_data_set_does_not_have_is_named(cache, tmp_path, run_step):
    write_dataset(cache_entry(cache, "datasets"))
    flags = ["--train", "org/name", "--revision", REVISION, "--split", "dev"]
    done = run_step("fetch_data", *flags, "--out", tmp_path / "out" / "x", cwd=tmp_path)
    assert done.returncode == 1
    assert f"error: org/name at {REVISION}, split dev, cannot be read: " in done.stderr
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
