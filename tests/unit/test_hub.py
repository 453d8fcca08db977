"""Models and data sets on the hub, from a cache that holds them already: nothing is fetched."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

REVISION = "0123456789abcdef0123456789abcdef01234567"


def cache_entry(cache: Path, kind: str) -> Path:
    """Where the hub's cache keeps org/name at REVISION. `kind` is models or datasets."""
    return cache / f"{kind}--org--name" / "snapshots" / REVISION


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
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


def test_a_cached_file_of_rows_is_linked(cache, tmp_path, run_step):
    folder = cache_entry(cache, "datasets")
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text('{"instruction": "a", "response": "b"}\n')
    out = tmp_path / "data" / "rows.jsonl"
    flags = ["--train", "org/name/rows.jsonl", "--revision", REVISION]
    done = run_step("fetch_data", *flags, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.is_symlink() and out.read_text() == (folder / "rows.jsonl").read_text()
