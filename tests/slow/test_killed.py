"""Snakemake killed with all its jobs in the middle: the next run ends in the same bytes."""

import os
import signal
import subprocess
import time

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("moment", ["moe_sft", "weighted_trained/lam~0.75", "eval/base/problems"])
def test_a_killed_workflow_goes_on_to_the_same_bytes(moment, new_project, artifact_hashes, whole):
    project = new_project("killed")
    log = project.results / "logs" / f"{moment}.log"
    running = subprocess.Popen(
        project.command(),
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert log.exists()
    time.sleep(3)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (project.results / "summary.csv").exists()

    assert "LockException" in project.snakemake().stderr
    assert project.snakemake("--unlock").returncode == 0
    assert "summary" in project.run()
    assert project.run() == []
    assert artifact_hashes(project) == whole


@pytest.fixture(scope="module")
def whole(new_project, artifact_hashes):
    """The artifacts of a run that was left alone."""
    project = new_project("whole")
    project.run()
    return artifact_hashes(project)
