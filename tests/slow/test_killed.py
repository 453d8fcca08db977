"""Snakemake killed with all its jobs in the middle: the next run goes on to the same bytes."""

import os
import signal
import subprocess
import time

import pytest

pytestmark = pytest.mark.slow

# Long enough that a kill after the fifth line falls into the middle of the training.
STEPS = {"moe_sft": 40, "weighted_trained/lam~0.75": 100}
LONGER = {
    section: {"max_steps": steps, "per_device_batch_size": 4, "checkpoint_minutes": 0}
    for section, steps in zip(("training", "mixing"), STEPS.values(), strict=True)
}


@pytest.fixture(scope="module")
def make_project(new_project):
    def make(name):
        project = new_project(name)
        project.overlay = project.overlay | LONGER
        return project

    return make


@pytest.fixture(scope="module")
def whole(make_project, artifact_hashes):
    """The artifacts of a run that was left alone."""
    project = make_project("whole")
    project.run()
    return artifact_hashes(project)


def lines_of(path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize("moment", STEPS)
def test_a_killed_training_goes_on_to_the_same_bytes(moment, make_project, artifact_hashes, whole):
    project = make_project("killed")
    metrics = project.results / "metrics" / f"{moment}.jsonl"
    running = subprocess.Popen(
        project.command(),
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while lines_of(metrics) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert 5 <= lines_of(metrics) < STEPS[moment]
    assert not (project.results / f"{moment}.manifest.json").exists()

    assert "LockException" in project.snakemake().stderr
    assert project.snakemake("--unlock").returncode == 0
    assert "summary" in project.run()
    log = (project.results / "logs" / f"{moment}.log").read_text()
    assert "going on from" in log
    assert lines_of(metrics) == STEPS[moment]
    assert project.run() == []
    assert artifact_hashes(project) == whole
