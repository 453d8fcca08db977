"""Every rule in its own conda environment, from a local channel that stands in for conda-forge."""

import os
import subprocess

import pytest

pytestmark = pytest.mark.slow


def test_the_workflow_in_conda(shared, tmp_path, new_project, artifact_hashes, monkeypatch):
    subprocess.run(["bash", shared / "tools/local-conda.sh", tmp_path], check=True, timeout=600)
    monkeypatch.setenv("PATH", f"{tmp_path / 'root' / 'condabin'}:{os.environ['PATH']}")
    monkeypatch.setenv("CONDARC", str(tmp_path / "condarc"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    project, plain = new_project("conda"), new_project("plain")
    overlay = project.overlay | {"data": {"limit": 64, "validation_rows": 6}}
    variants = {"xft": {}, "stock": {"merge": {"method": "examples/merges/ties.py:ties"}}}
    project.overlay = plain.overlay = overlay | {"variants": variants}
    in_conda = ("--sdm", "conda", "--conda-prefix", str(project.folder / "environments"))
    rules = project.run(*in_conda)
    assert len(rules) == 21
    assert project.run(*in_conda) == []
    plain.run()
    assert artifact_hashes(project) == artifact_hashes(plain)
    assert project.run() == []
    assert plain.run(*in_conda) == []
