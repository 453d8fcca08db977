"""Jobs of a run with a GPU are forks too: each uses its own card, and signals end it alone."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from project import QUICK

from xft.store import forks

PAUSE = Path(__file__).parents[1] / "pause" / "sitecustomize.py"
# A training step, with random numbers, in a step that waits then.
STEP = """
import json, os, time
from xft.common.gpus import claim_gpus

claim_gpus(1)

import torch

torch.manual_seed(1)
inputs = torch.rand(4, 3, device="cuda")
layer = torch.nn.Linear(3, 2, device="cuda")
layer(inputs).square().sum().backward()
gradient = layer.weight.grad
seen = {"card": os.environ["CUDA_VISIBLE_DEVICES"], "cards": torch.cuda.device_count()}
seen |= {"device": str(gradient.device), "gradient": gradient.tolist()}
print(json.dumps(seen), flush=True)
while os.path.exists("waits"):
    time.sleep(0.05)
"""
EVALUATED = ("base", "sft")
EVALUATIONS = ("--until", "eval")  # what follows uses no GPU
CONFIG = {
    "gpus": 1,
    "threads": 1,
    "data": QUICK["data"] | {"max_length": 256},
    "evaluation": QUICK["evaluation"] | {"models": [*EVALUATED]},
}


@pytest.fixture(autouse=True)
def two_cards(monkeypatch) -> None:
    monkeypatch.setenv("EMULATED_GPUS", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def server(tmp_path, repository, monkeypatch) -> Iterator[subprocess.Popen]:
    """The server, in a folder with a step that waits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{repository}")
    monkeypatch.delenv(forks.SOCKET)
    monkeypatch.setattr(forks, "PATIENCE", 600)  # the imports may take long
    Path("dense.py").write_text(STEP)
    waits = tmp_path / "waits"
    waits.touch()
    with forks.start_server(dict(os.environ)) as program:
        yield program
        waits.unlink(missing_ok=True)


def start(name: str) -> tuple[forks.Fork | forks.NewProcess, dict]:
    """A job, and what it has seen."""
    environment = dict(os.environ)
    del environment["PYTEST_CURRENT_TEST"]  # the server has another one
    file = Path(name)
    with file.open("wb") as log:
        words = ["python", "-m", "dense"]
        job = forks.start(words, environment, log.fileno(), log.fileno())
    while not (lines := re.findall(r"^\{.*\}$", file.read_text(), re.MULTILINE)):
        assert Path(f"/proc/{job.pid}").exists(), file.read_text()
        time.sleep(0.05)
    return job, json.loads(lines[0])


def test_forks_have_a_card_each_and_one_that_is_killed_gives_it_back(server):
    """The server has not used CUDA, so that a fork computes what a process computes."""
    first, of_first = start("first")
    second, of_second = start("second")
    assert {of_first["card"], of_second["card"]} == {"0", "1"}
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait() == -signal.SIGTERM
    third, of_third = start("third")
    assert of_third == of_first
    os.kill(second.pid, signal.SIGKILL)
    assert second.wait() == -signal.SIGKILL
    fourth, of_fourth = start("fourth")
    assert of_fourth == of_second
    for job in (first, second, third, fourth):
        assert isinstance(job, forks.Fork)
    server.kill()
    server.wait()
    Path("waits").unlink()
    assert [third.wait(), fourth.wait()] == [0, 0]
    process, of_process = start("process")
    assert isinstance(process, forks.NewProcess) and process.wait() == 0
    for seen in (of_first, of_second, of_process):
        del seen["card"]
    assert of_first == of_second == of_process
    assert of_process["cards"] == 1 and of_process["device"] == "cuda:0"


def test_a_run_of_forks_makes_what_a_run_of_processes_makes(
    new_project, artifact_hashes, monkeypatch
):
    """Two evaluations are forks on two cards. One is stopped and the server killed; the other ends,
    and the next run goes on.
    """
    expected = new_project("processes")
    expected.run(*EVALUATIONS, **CONFIG)
    project = new_project("forks")
    project.overlay = project.overlay | CONFIG
    shutil.copy(PAUSE, project.folder)
    pause = project.folder / "pause"
    pause.write_text("eval 1")
    monkeypatch.setenv("PAUSE", str(pause))
    monkeypatch.delenv(forks.SOCKET)
    said = project.folder / "said"
    running = project.start(said, *EVALUATIONS, "--resources", "gpu=2")
    try:
        logs = [project.results / f"logs/eval/{model}/problems.log" for model in EVALUATED]
        assert sorted(cards_of(logs, running)) == ["0", "1"]
        jobs = [fork_of(log) for log in logs]
        os.kill(jobs[0], signal.SIGTERM)
        os.kill(parent_of(parent_of(jobs[1])), signal.SIGKILL)  # the keeper's is the server
    finally:
        pause.unlink()
    assert running.wait() == 1
    results = [project.results / f"eval/{model}/problems.json" for model in EVALUATED]
    assert [result.exists() for result in results] == [False, True], said.read_text()
    monkeypatch.setenv(forks.SOCKET, "")
    assert project.run(*EVALUATIONS) == ["eval"]
    assert artifact_hashes(project) == artifact_hashes(expected)
    assert json.loads(results[0].read_text())["settings"]["device"] == "cuda"


def cards_of(logs: list[Path], running: subprocess.Popen) -> list[str]:
    """The cards that the jobs with some logs have taken, once all have one."""
    cards: list[str] = []
    while len(cards) < len(logs):
        assert running.poll() is None
        time.sleep(0.05)
        texts = [log.read_text() for log in logs if log.exists()]
        cards = re.findall(r"GPU (\d) of this machine", "".join(texts))
    return cards


def fork_of(log: Path) -> int:
    """The process of the job with a log, which must be a fork."""
    owner = log.resolve().with_suffix(".owner").read_text()
    process = int(re.match(r"process (\d+) ", owner)[1])
    assert b"forks.py" in Path(f"/proc/{process}/cmdline").read_bytes()
    return process


def parent_of(process: int) -> int:
    """The process that started another."""
    return int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1])
