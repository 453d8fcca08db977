"""A training and an evaluation that are stopped in the middle go on.

Snakemake is killed with all its jobs or alone, or gets a Ctrl-C with them, as from a terminal.
"""

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from buckets import KEYS
from project import Project

from xft.tools import status

pytestmark = pytest.mark.ci
ENDED = "\nEnded at once. To go on: run the same command again.\n"
MODELS = ("moe_sft/", "dense/")
PAUSE = Path(__file__).parents[1] / "pause" / "sitecustomize.py"


@pytest.fixture
def project(new_project, monkeypatch) -> Iterator[Project]:
    """A project whose trainings save often, which changes none of their bytes."""
    project = new_project("killed")
    often = project.overlay["moe_sft"] | {"save_minutes": 0}
    project.overlay = project.overlay | {"moe_sft": often}
    shutil.copy(PAUSE, project.folder)
    monkeypatch.setenv("PAUSE", str(project.folder / "pause"))
    yield project
    go_on(project)


def start(project: Project, target: str, moment: str) -> subprocess.Popen:
    """Snakemake, with a step that waits at a moment (tests/pause). It writes to the file `said`.

    Its jobs are forks of its own server, as in a user's run.
    """
    (project.folder / "pause").write_text(moment)
    (project.folder / "waits").unlink(missing_ok=True)
    with patch.dict(os.environ):
        del os.environ["XFT_FORKS"]
        running = project.start(project.folder / "said", target)
    while not (project.folder / "waits").exists():
        assert running.poll() is None, (project.folder / "said").read_text()
        time.sleep(0.05)
    return running


def kill(running: subprocess.Popen, project: Project) -> None:
    """Kill snakemake with its jobs."""
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def go_on(project: Project) -> None:
    """Let the step that waits go on, if it still runs, and later steps not wait."""
    (project.folder / "pause").unlink(missing_ok=True)


def log_of(project: Project, name: str) -> str:
    return (project.results / "logs" / f"{name}.log").read_text()


def test_stopped_steps_of_each_kind_go_on(project, finished, artifact_hashes, monkeypatch, capsys):
    monkeypatch.chdir(project.folder)
    store = project.folder / "store"
    target = "results/moe_sft"
    running = start(project, target, "moe_sft 2")
    os.killpg(running.pid, signal.SIGINT)
    while "Ctrl-C: the training stops" not in log_of(project, "moe_sft"):
        time.sleep(0.05)
    go_on(project)
    assert running.wait() == 1
    said = log_of(project, "moe_sft")
    assert "moe_sft: stopped. Run the same command again to continue from step 2" in said
    assert "Traceback" not in said

    running = start(project, target, "moe_sft 3")
    for awaited in ("Ctrl-C: the training stops", "Ended at once"):
        os.killpg(running.pid, signal.SIGINT)
        while awaited not in (shown := (project.folder / "said").read_text()):
            assert running.poll() is None or "Ended" in awaited, shown
            time.sleep(0.05)
    assert running.wait() == 128 + signal.SIGINT and "Traceback" not in shown
    assert shown.endswith(ENDED)

    kill(start(project, target, "moe_sft 3"), project)
    assert "continuing from" in log_of(project, "moe_sft")
    assert not os.path.lexists(project.results / "moe_sft")
    status.main(["results"])
    lines = capsys.readouterr().out
    assert re.search(r"^cut off: 1\n  moe_sft .*checkpoint of step 2$", lines, re.MULTILINE)
    assert lines.endswith("To go on: run the same snakemake command again.\n")
    planned = project.run("--dry-run")
    assert int(re.search(r"^next run: (\d+)$", lines, re.MULTILINE)[1]) == len(planned)

    running = start(project, target, "moe_sft 3")
    running.kill()  # alone
    running.wait()
    begun = log_of(project, "moe_sft")
    refused = project.snakemake(target)
    assert refused.returncode == 1
    (worker,) = re.findall(r"moe_sft is still being made by process (\d+) ", refused.stderr)
    assert Path(f"/proc/{worker}/comm").read_text() == "moe_sft\n"
    assert "Traceback" not in refused.stderr and log_of(project, "moe_sft") == begun
    go_on(project)
    while Path(f"/proc/{worker}").exists() or list((store / "moe_sft").glob("*.partial")):
        time.sleep(0.05)
    assert project.run(target) == []

    kill(start(project, "results/eval/base/problems.json", "eval 2"), project)
    go_on(project)
    ran = project.run()
    assert set(ran) < set(planned) - {"moe_sft"} and "eval" in ran
    assert "continuing: 2 of 4 are written" in log_of(project, "eval/base/problems")
    assert artifact_hashes(project) == artifact_hashes(finished)
    assert not list(store.glob("*/*.partial"))
    monkeypatch.chdir("/")
    while project.folder in map(Path.resolve, Path("/proc").glob("[0-9]*/cwd")):
        time.sleep(0.05)


def test_a_ctrl_c_in_the_writing_loses_no_training(project, finished, artifact_hashes):
    """The tuned model is stored. A merge, which is short, begins again, and nothing else does."""
    running = start(project, "results/moe_sft", "moe_sft 0")
    os.killpg(running.pid, signal.SIGINT)
    while "Ctrl-C: all steps are done, and the result is" not in log_of(project, "moe_sft"):
        assert running.poll() is None, log_of(project, "moe_sft")
        time.sleep(0.05)
    go_on(project)
    assert running.wait() == 1
    assert project.run("results/moe_sft") == []

    running = start(project, "results/dense/lam~0.75", "dense 0")
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait() == 1
    go_on(project)
    assert not list((project.folder / "store").glob("*/*.partial"))
    assert project.run("results/dense/lam~0.75") == ["dense"]
    made, expected = (
        {name: sha for name, sha in artifact_hashes(one).items() if name.startswith(MODELS)}
        for one in (project, finished)
    )
    assert made and made == expected


@pytest.mark.needs("s3fs")
def test_a_ctrl_c_ends_a_fetch_at_once(new_project):
    project = new_project("fetching")
    project.overlay = project.overlay | {"stores": ["s3://box/folder"]}
    with socket.create_server(("127.0.0.1", 0)) as server:  # which never answers
        url = "http://{}:{}".format(*server.getsockname())
        with patch.dict(os.environ, KEYS, AWS_ENDPOINT_URL=url):
            running = project.start(project.folder / "said")
        while not select.select([server], [], [], 0.1)[0]:
            assert running.poll() is None
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait() == 128 + signal.SIGINT
    assert (project.folder / "said").read_text().endswith(ENDED)
