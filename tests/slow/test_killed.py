"""Snakemake killed with all its jobs in the middle: the next run goes on to the same bytes."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LENGTH, PAUSED = 12, 7
PAUSE = Path(__file__).parents[1] / "pause" / "sitecustomize.py"
TRAINING = {"max_steps": LENGTH, "per_device_train_batch_size": 4, "save_minutes": 0}
MOMENTS = ("moe_sft", "weighted_trained/lam~0.75")


@pytest.fixture
def make_project(new_project):
    def make(name):
        project = new_project(name)
        project.overlay = project.overlay | {"moe_sft": TRAINING, "mixing": TRAINING}
        shutil.copy(PAUSE, project.folder)
        return project

    return make


def lines_of(path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_killed_trainings_go_on_to_the_same_bytes(make_project, artifact_hashes, monkeypatch):
    whole, project = make_project("whole"), make_project("killed")
    whole.run()
    pause = project.folder / "pause"
    monkeypatch.setenv("PAUSE", str(pause))
    for moment in MOMENTS:
        pause.write_text(f"{moment.split('/')[0]} {PAUSED}")
        running = subprocess.Popen(
            project.command(),
            cwd=project.folder,
            env=project.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while lines_of(project.results / "metrics" / f"{moment}.jsonl") < PAUSED - 1:
            assert running.poll() is None
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        assert not (project.results / f"{moment}.manifest.json").exists()
        assert "LockException" in project.snakemake().stderr
        assert project.snakemake("--unlock").returncode == 0
    pause.unlink()
    assert "summary" in project.run()
    for moment in MOMENTS:
        assert "continuing from" in (project.results / "logs" / f"{moment}.log").read_text()
        assert lines_of(project.results / "metrics" / f"{moment}.jsonl") == LENGTH
    assert project.run() == []
    assert artifact_hashes(project) == artifact_hashes(whole)
