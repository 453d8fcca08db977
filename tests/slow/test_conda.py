"""Every rule in its own conda environment, from a local channel that stands in for conda-forge."""

import os
import re
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
ONE_RULE = """
rule one:
    output: "one"
    conda: "envs/summary.yaml"
    shell: "touch {output}"
"""
HOLDS_THE_TIME = r"\.pyc$|^conda-meta/"


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
    project, plain = new_project("conda"), new_project("plain")
    project.overlay = plain.overlay = project.overlay | {
        "data": {"limit": 64, "validation_rows": 6},
        "variants": {"xft": {}, "stock": {"merge": {"method": "model_stock"}}},
    }
    in_conda = ("--sdm", "conda", "--conda-prefix", str(project.folder / "environments"))
    rules = project.run(*in_conda)
    assert len(rules) == 21
    assert project.run(*in_conda) == []
    plain.run()
    assert artifact_hashes(project) == artifact_hashes(plain)
    assert project.run() == []
    assert plain.run(*in_conda) == []


def test_a_locked_environment_is_made_again_byte_for_byte(
    conda, new_project, file_hashes, monkeypatch
):
    for name, value in conda.items():
        monkeypatch.setenv(name, value)
    project = new_project("locked")
    (project.folder / "Snakefile").write_text(ONE_RULE)
    environments = project.folder / ".snakemake" / "conda"

    def make() -> dict[str, str]:
        """Hashes of the files of the one environment, but for what holds the time."""
        shutil.rmtree(environments, ignore_errors=True)
        project.run("--sdm", "conda", "--conda-create-envs-only")
        (folder,) = [path for path in environments.iterdir() if path.is_dir()]
        hashes = file_hashes(folder)
        return {name: hashes[name] for name in hashes if not re.search(HOLDS_THE_TIME, name)}

    make()
    lock = [sys.executable, "-m", "tools.lock_envs"]
    subprocess.run(lock, cwd=project.folder, env=project.environment, check=True)
    first = make()
    assert len(first) > 1000
    assert make() == first
    file = project.folder / "envs" / "summary.yaml"
    file.write_text(re.sub("sha256:....", "sha256:0000", file.read_text()))
    refused = project.snakemake("--sdm", "conda", "--conda-create-envs-only")
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stdout + refused.stderr
