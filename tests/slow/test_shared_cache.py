"""Two checkouts with one cache: what they share, what they do not, and what is noticed."""

import os
import shutil
from pathlib import Path

import pytest
from project import Project

from xft.tools import verify

pytestmark = pytest.mark.ci
OWN = ["base", "moe", "moe_sft", "tokens", "weighted_trained/lam~0.75"]
TRAINED = "results/weighted_trained/lam~0.75.manifest.json"
OF_A_SEED = ["moe", "moe_sft", "weighted_trained/lam~0.75"]


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


@pytest.fixture(scope="module")
def second(first, new_project) -> Project:
    """Another checkout, which has made a second seed."""
    project = new_project("second")
    assert fetched(project, seeds=[42, 43]) == OWN
    return project


def fetched(project: Project, *arguments: str, **config) -> list[str]:
    """Run with the cache. The artifacts that came out of it: links to what was there before."""
    there = set(Path(os.environ["SNAKEMAKE_OUTPUT_CACHE"]).iterdir())
    done = project.snakemake(*arguments, "--cache", **config)
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


def test_another_checkout_shares_what_is_expensive(first, second):
    shown = ("summary.csv", "report.html", "figures")
    same = manifests(first).keys() - {f"{name}.manifest.json" for name in shown}
    assert {name: manifests(second)[name] for name in same} == {
        name: manifests(first)[name] for name in same
    }


def test_a_seed_is_shared_wherever_it_lies(second, new_project):
    """One config's own seed is an additional one of another config."""
    third = new_project("third")
    targets = TRAINED, TRAINED.replace("results", "results/seed~42")
    additional = [f"seed~42/{name}" for name in OF_A_SEED]
    assert fetched(third, *targets, seed=43, seeds=[42, 43]) == sorted(OWN + additional)
    for name in OF_A_SEED:
        file = f"{name}.manifest.json"
        assert manifests(third)[file] == manifests(second)[f"seed~43/{file}"]
        assert manifests(third)[f"seed~42/{file}"] == manifests(second)[file]


def test_a_lambda_is_never_served_for_another(first, new_project):
    other = new_project("other")
    assert fetched(other, merge={"lambdas": [0.85]}) == ["base", "moe", "moe_sft", "tokens"]
    verify.main([str(other.results), "--full"])


def test_edited_code_is_not_served_what_the_old_code_made(first, new_project):
    edited = new_project("edited")
    module = edited.folder / "xft" / "conversions" / "upcycle.py"
    module.write_text(module.read_text() + "\nEDITED = True\n")
    assert fetched(edited, TRAINED) == ["base", "tokens"]  # which know nothing of that module


def test_what_is_shared_is_read_only_and_needs_no_other_files(first, shared):
    files = [path.resolve() for path in (first.results / "base").iterdir()]
    assert len(files) > 3
    assert all(shared.resolve() in path.parents for path in files)
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
