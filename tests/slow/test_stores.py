"""Stores of others, which are only read: what is linked, what is made, what is noticed."""

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pytest
from working_folder import begin

from xft.config.runs import overlaid, read_overlaid
from xft.dag.workflow_run import WorkflowRun

pytestmark = pytest.mark.ci
NOBODY = 65534
CHAIN = ["weighted_init", "weighted_trained"]
ENDS = ["report", "summary"]  # which are taken from nobody


@pytest.fixture
def theirs(finished, tmp_path) -> Path:
    """A copy of the store of `finished`, which a test may change."""
    return shutil.copytree(finished.folder / "store", tmp_path / "theirs")


def test_another_project_runs_only_what_is_new(finished, new_project, artifact_hashes):
    """If it goes back to the first values, it makes only the tables and the report."""
    project = new_project("second")
    project.overlay = project.overlay | {"stores": [str(finished.folder / "store")]}
    before = artifact_hashes(finished)
    target = "results/weighted_trained/lam~0.85"
    assert project.run(target, merge={"lambdas": [0.85]}) == CHAIN
    own = project.results / "weighted_trained" / "lam~0.85"
    assert own.resolve().is_relative_to(project.folder)

    assert project.run() == ENDS
    assert artifact_hashes(project) == before
    assert not os.path.lexists(own)
    taken = project.results / "moe_sft" / "model.safetensors"
    assert taken.resolve().is_relative_to(finished.folder)

    assert project.run(target, merge={"lambdas": [0.85]}) == []
    assert any(own.iterdir())


def test_edited_code_is_not_served_what_the_old_code_made(finished, new_project):
    project = new_project("edited")
    project.overlay = project.overlay | {"stores": [str(finished.folder / "store")]}
    module = project.folder / "xft" / "conversions" / "upcycle.py"
    module.write_text(module.read_text() + "\nEDITED = True\n")
    planned = project.snakemake("--dry-run")
    assert "The modules: xft/conversions/upcycle.py" in planned.stderr
    assert "4 of these 15 artifacts lie in the stores of others" in planned.stderr
    assert "moe" in project.rules(planned)
    assert project.run("results/tokens") == []  # tokens know nothing of that module


def reading(finished, theirs: Path, **keys) -> WorkflowRun:
    """A run of the same configuration that reads a store of others."""
    values, _ = read_overlaid([finished.folder / "config.yaml"])
    return WorkflowRun(overlaid(values, finished.overlay | {"stores": [str(theirs)]} | keys))


def test_an_entry_that_appears_or_vanishes(finished, theirs, tmp_path, monkeypatch):
    """For a run in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resources").symlink_to(finished.folder / "resources")
    (late,) = theirs.glob("moe_sft/*")
    late.rename(tmp_path / "aside")
    run = reading(finished, theirs)
    (tmp_path / "aside").rename(late)
    run.begin()
    assert run.missing == run.experiment.ends
    run.close()

    late.rename(tmp_path / "aside")
    again = reading(finished, theirs.rename(tmp_path / "moved"))
    again.begin()
    for own in (run, again):
        assert [part.step for part in own.missing] == ["moe_sft", "summary", "report"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_takes_from_a_store_that_he_cannot_write(finished, theirs, request, monkeypatch):
    """Another run imports all before, which that user may not be able to read."""
    public = Path(tempfile.mkdtemp())
    request.addfinalizer(partial(shutil.rmtree, public))
    readable = shutil.copytree(theirs, public / "theirs", copy_function=shutil.copy)
    for path in (public, readable, *readable.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    shutil.copytree(finished.folder / "resources", public / "own" / "resources")
    os.chown(public / "own", NOBODY, NOBODY)
    monkeypatch.chdir(public / "own")
    begin(reading(finished, readable, store="first", results_dir="first_results"))
    run = reading(finished, readable)
    os.seteuid(NOBODY)
    try:
        run.begin()
    finally:
        os.seteuid(0)
    assert run.missing == run.experiment.ends
    link = Path("results/moe_sft")
    assert link.resolve().is_relative_to(readable)
    assert link.lstat().st_uid == NOBODY
