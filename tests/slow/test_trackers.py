"""Trackers get what the metrics file gets, are continued, and are told no secret."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from chains import Chain
from fork_server import PYTHON
from trainings import lines_of, write_rows

pytestmark = [pytest.mark.ci, pytest.mark.needs("tensorboard", "wandb")]
LENGTH = 4
SECRETS = {"WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567"}
SECRETS["HF_TOKEN"] = "hf_aTokenThatMustNotBeWritten"
TRACKERS = ["tensorboard", "wandb"]
# Runs a step that a SIGTERM stops in its second training step.
STOPPED = """
import pytest, sys, trainings
from workflow_scripts import moe_sft
trainings.stop_in(pytest.MonkeyPatch(), 2)
moe_sft.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def results(tiny_llama, tmp_path_factory, repository, fork_server) -> Path:
    """What a training with all trackers leaves that was stopped in step 2 and went on."""
    root = tmp_path_factory.mktemp("trackers")
    moe = Chain(root, base=tiny_llama)["moe"]
    words = ["--moe", str(moe), "--data", str(write_rows(root)), "--out", "results/moe_sft"]
    words += ["--metrics", "results/metrics/moe_sft.jsonl", "--max-steps", str(LENGTH)]
    words += ["--per-device-train-batch-size", "4", "--report-to", *TRACKERS]
    names = "PATH", "HOME", "FORK_SERVER", "FORK_PYTHON"
    known = {name: os.environ[name] for name in names if name in os.environ}
    known |= SECRETS | {"PYTHONPATH": f"{repository}:{repository}/tests", "OMP_NUM_THREADS": "1"}
    again = ["-m", "workflow_scripts.moe_sft"], 0
    for program, status in ((["-c", STOPPED], 128 + signal.SIGTERM), again):
        command = [PYTHON, *program, *words]
        done = subprocess.run(command, cwd=root, env=known, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
    return root / "results"


@pytest.fixture(scope="module")
def losses(results) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines_of(results / "metrics" / "moe_sft")}


def test_tensorboard_has_one_curve(results, losses):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(results / "metrics" / "tensorboard" / "moe_sft"))
    events.Reload()
    curve = {event.step: event.value for event in events.Scalars("train/loss")}
    assert curve == pytest.approx(losses)
    assert len(events.Scalars("train/entropy/1")) == LENGTH
    assert "train/load/1/0" not in events.Tags()["scalars"]


def test_wandb_has_one_run_in_two_parts(results, losses):
    parts = list((results / "metrics" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(parts) == 2
    assert len({part.name for part in parts}) == 1  # it is the run's
    content = b"".join(part.read_bytes() for part in parts)
    assert b"train/entropy/1" in content
    assert all(str(loss).encode() in content for loss in losses.values())


def test_no_secret_and_no_environment_is_written(results):
    files = [path for path in results.rglob("*") if path.is_file()]
    assert len(files) > 15
    for path in files:
        content = path.read_bytes()
        assert not [name for name in SECRETS if SECRETS[name].encode() in content], path
