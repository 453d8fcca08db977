"""Two checkouts with one cache: what they share, what they do not, and what is noticed."""

import os
import shutil
from pathlib import Path

import pytest
from project import Project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A cache that a first checkout has filled."""
    folder = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def first(shared, new_project) -> Project:
    project = new_project("first")
    assert fetched(project) == []
    return project


def fetched(project: Project, **config) -> list[str]:
    """Run with the cache. The artifacts that came out of it: links to what was there before."""
    there = set(Path(os.environ["SNAKEMAKE_OUTPUT_CACHE"]).iterdir())
    done = project.snakemake("--cache", **config)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(
        path.relative_to(project.results).as_posix().removesuffix(".manifest.json")
        for path in project.results.rglob("*.manifest.json")
        if path.is_symlink() and path.resolve() in there
    )


def manifests(project: Project) -> dict[str, bytes]:
    """All manifests, which hold the hash of every file."""
    return {
        path.relative_to(project.results).as_posix(): path.read_bytes()
        for path in project.results.rglob("*.manifest.json")
    }


def test_another_checkout_shares_what_is_expensive(first, new_project):
    second = new_project("second")
    assert fetched(second) == ["base", "moe", "moe_sft", "tokens", "weighted_trained/lam~0.75"]
    assert manifests(second) == manifests(first)


def test_a_shared_base_needs_no_other_files(first, shared):
    files = [path.resolve() for path in (first.results / "base").iterdir()]
    assert len(files) > 3
    assert all(shared.resolve() in path.parents for path in files)


def test_a_lambda_is_never_served_for_another(first, new_project, run_step):
    third = new_project("third")
    assert fetched(third, merge={"lambdas": [0.85]}) == ["base", "moe", "moe_sft", "tokens"]
    done = run_step("verify", third.results, "--full")
    assert done.returncode == 0, done.stdout + done.stderr


def test_edited_code_is_not_served_what_the_old_code_made(first, new_project):
    edited = new_project("edited")
    module = edited.folder / "workflow_scripts" / "conversions" / "upcycle.py"
    module.write_text(module.read_text() + "\nEDITED = True\n")
    assert fetched(edited) == ["base", "tokens"]  # which know nothing of that module


def test_what_is_shared_is_read_only(first, shared):
    written = [path for path in shared.rglob("*") if path.is_file() and path.name[0] != "."]
    assert any(path.name == "model.safetensors" for path in written)
    for path in written:
        if path.parent != shared:  # a file of an artifact
            assert path.stat().st_mode & 0o222 == 0, path


def test_a_damaged_entry_is_noticed(first, shared, new_project, tmp_path, monkeypatch):
    own = shutil.copytree(shared, tmp_path / "cache", symlinks=True)
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(own))
    entry = (first.results / "moe_sft" / "model.safetensors").resolve()
    weights = own / entry.relative_to(shared.resolve())
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    done = new_project("damaged").snakemake("--cache")
    assert done.returncode != 0
    assert "moe_sft/model.safetensors was altered" in done.stdout + done.stderr
