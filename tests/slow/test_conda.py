"""Every rule in its own conda environment, from a local channel that stands in for conda-forge."""

import os
import subprocess

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def conda(repository, tmp_path_factory):
    """Environment variables with which snakemake finds a conda and its channel."""
    script = repository.parent / "shared" / "tools" / "local-conda.sh"
    if not script.exists():
        pytest.skip("needs a script that builds a local conda channel")
    folder = tmp_path_factory.mktemp("conda")
    subprocess.run(["bash", script, folder], check=True, timeout=600)
    path = f"{folder / 'root' / 'condabin'}:{os.environ['PATH']}"
    return {"PATH": path, "CONDARC": str(folder / "condarc")}


def test_the_workflow_runs_in_conda_environments(conda, new_project, artifact_hashes, monkeypatch):
    for name, value in conda.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    project = new_project("conda")
    rules = project.run("--sdm", "conda")
    assert len(rules) == 13
    assert project.run("--sdm", "conda") == []
    plain = new_project("plain")
    plain.run()
    assert artifact_hashes(project) == artifact_hashes(plain)
    without_software = ["--rerun-triggers", "code", "input", "mtime", "params"]
    assert project.run(*without_software) == []
    assert plain.run("--sdm", "conda", *without_software) == []
