"""`xft status` of a run that is killed in moe_sft: while it runs, after the kill, at the end."""

import os
import re
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


def test_a_killed_run_is_running_then_cut_off_then_finished(new_project, run_step, monkeypatch):
    project = new_project("status")
    project.overlay = project.overlay | {"moe_sft": TRAINING}
    shutil.copy(PAUSE, project.folder)
    pause = project.folder / "pause"
    pause.write_text(f"moe_sft {PAUSED}")
    monkeypatch.setenv("PAUSE", str(pause))

    def status() -> str:
        done = run_step("tools.status", "results", cwd=project.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    running = subprocess.Popen(
        project.command("results/moe_sft.manifest.json"),
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    metrics = project.results / "metrics" / "moe_sft.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < PAUSED - 1:
        assert running.poll() is None
        time.sleep(0.05)
    assert re.search(r"^running: 1\n  results/moe_sft ", status(), re.MULTILINE)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()

    killed = status()
    assert "running" not in killed
    found = re.search(r"^cut off: 1\n  results/moe_sft .*checkpoint of step (\d+)$", killed, re.M)
    assert found
    assert killed.endswith(": run `snakemake --unlock` first.\n")
    assert project.snakemake("--unlock").returncode == 0
    planned = project.run("--dry-run")
    counts = re.search(r"^next run: (\d+)$", killed, re.MULTILINE)
    assert int(counts[1]) == len(planned)

    pause.unlink()
    assert project.run() == planned
    log = (project.results / "logs" / "moe_sft.log").read_text()
    assert re.search(rf"continuing from .*checkpoint-{found[1]}\b", log)
    assert "All is finished." in status()
