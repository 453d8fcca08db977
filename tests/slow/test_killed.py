"""A conversion, a training and an evaluation that are stopped in the middle go on.

Snakemake is killed with all its jobs, or gets a Ctrl-C with them, as from a terminal.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from project import Project

from xft.tools import status

pytestmark = pytest.mark.ci
PAUSE = Path(__file__).parents[1] / "pause" / "sitecustomize.py"


@pytest.fixture
def project(new_project, monkeypatch) -> Project:
    """A project whose trainings save often, which changes none of their bytes."""
    project = new_project("killed")
    project.overlay = project.overlay | {
        "moe_sft": project.overlay["moe_sft"] | {"save_minutes": 0}
    }
    shutil.copy(PAUSE, project.folder)
    monkeypatch.setenv("PAUSE", str(project.folder / "pause"))
    return project


def start(project: Project, target: str, moment: str) -> subprocess.Popen:
    """Snakemake, with a step that waits at a moment (tests/pause). It writes to the file `said`."""
    (project.folder / "pause").write_text(moment)
    (project.folder / "waits").unlink(missing_ok=True)
    with (project.folder / "said").open("w") as said:
        running = subprocess.Popen(
            project.command(target),
            cwd=project.folder,
            env=project.environment,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    while not (project.folder / "waits").exists():
        assert running.poll() is None, (project.folder / "said").read_text()
        time.sleep(0.05)
    return running


def kill(running: subprocess.Popen, project: Project) -> None:
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    (project.folder / "pause").unlink()
    assert "LockException" in project.snakemake().stderr
    assert project.snakemake("--unlock").returncode == 0


def log_of(project: Project, name: str) -> str:
    return (project.results / "logs" / f"{name}.log").read_text()


def test_a_stopped_step_of_each_kind_goes_on(
    project, finished, artifact_hashes, monkeypatch, capsys
):
    monkeypatch.chdir(project.folder)

    def told() -> str:
        capsys.readouterr()
        status.main(["results"])
        return capsys.readouterr().out

    kill(start(project, "results/moe.manifest.json", "moe 1"), project)
    assert not (project.results / "moe").exists()

    target = "results/moe_sft.manifest.json"
    running = start(project, target, "moe_sft 2")
    assert re.search(r"^running: 1\n  results/moe_sft ", told(), re.MULTILINE)
    os.killpg(running.pid, signal.SIGINT)
    while "Ctrl-C: the training stops" not in log_of(project, "moe_sft"):
        time.sleep(0.05)
    (project.folder / "pause").unlink()
    assert running.wait() == 1
    said = log_of(project, "moe_sft")
    assert "moe_sft: stopped. Run the same command again to continue from step 2" in said
    assert "Traceback" not in said

    kill(start(project, target, "moe_sft 3"), project)
    assert "continuing from" in log_of(project, "moe_sft")
    assert not (project.results / "moe_sft").exists()
    lines = told()
    assert re.search(r"^cut off: 1\n  results/moe_sft .*checkpoint of step 2$", lines, re.MULTILINE)
    assert lines.endswith(": run `snakemake --unlock` first.\n")
    planned = project.run("--dry-run")
    assert int(re.search(r"^next run: (\d+)$", lines, re.MULTILINE)[1]) == len(planned)

    kill(start(project, "results/eval/base/problems.json", "eval 2"), project)
    ran = project.run()
    assert set(ran) < set(planned) and "eval" in ran
    assert "continuing: 2 of 4 are written" in log_of(project, "eval/base/problems")
    assert "All is finished." in told()
    assert artifact_hashes(project) == artifact_hashes(finished)
    assert not list(project.results.rglob(".*.t*"))
