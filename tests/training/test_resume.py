"""A training that was stopped goes on from its newest whole checkpoint, and from no other's."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from chains import Chain
from fork_server import PYTHON

from workflow_scripts import moe_sft, weighted_trained
from xft.artifacts.artifact import lock
from xft.artifacts.manifest import manifest_path, read_manifest
from xft.common.errors import UserError
from xft.training import callbacks
from xft.training.callbacks import ProgressCallback

STEPS = {"moe_sft": moe_sft, "weighted_trained": weighted_trained}
LENGTH = 8
TRAINING = [
    "--max-steps",
    str(LENGTH),
    "--per-device-train-batch-size",
    "4",
    "--learning-rate",
    "0.01",
]


@pytest.fixture(scope="module")
def arguments(tiny_llama, tmp_path_factory) -> dict[str, list[str]]:
    """The arguments of both trainings but for --out and --metrics."""
    root = tmp_path_factory.mktemp("inputs")
    rows = [{"instruction": f"Add {n} to x.", "response": f"return x + {n}"} for n in range(12)]
    file = root / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chain = Chain(root, base=tiny_llama, data=file)
    return {step: [*chain.words(step), *TRAINING] for step in STEPS}


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory) -> dict[str, Path]:
    """What trainings make that are left alone."""
    folder = tmp_path_factory.mktemp("whole")
    for step, words in arguments.items():
        STEPS[step].main([*words, *outputs(folder / step)])
    return {step: folder / step for step in STEPS}


def outputs(out: Path) -> list[str]:
    return ["--out", str(out), "--metrics", str(out.with_suffix(".jsonl"))]


def result(out: Path) -> tuple[str, str]:
    """The artifact's identity, and the metrics."""
    return read_manifest(manifest_path(out)).id, out.with_suffix(".jsonl").read_text()


def stop_after(monkeypatch, number: int, signal_number: int = signal.SIGTERM) -> None:
    """Let a signal come within step `number`."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == number - 1:
            os.kill(os.getpid(), signal_number)

    monkeypatch.setattr(ProgressCallback, "on_step_begin", on_step_begin)


@contextmanager
def stderr_in(file: Path):
    """All that is written to stderr, in a file: a signal's handler writes past `sys.stderr`."""
    before = os.dup(2)
    sys.stderr.flush()
    with file.open("wb") as target:
        os.dup2(target.fileno(), 2)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stderr", os.fdopen(os.dup(2), "w"))
            yield file
            sys.stderr.flush()
    finally:
        os.dup2(before, 2)
        os.close(before)


@pytest.fixture(scope="module", params=STEPS)
def stopped_once(request, arguments, tmp_path_factory):
    """A step, its arguments, and the folder after a SIGTERM in step 3 and a Ctrl-C in step 5."""
    folder, words = tmp_path_factory.mktemp("stopped"), arguments[request.param]
    for number, name, sent in ((3, "SIGTERM", signal.SIGTERM), (5, "Ctrl-C", signal.SIGINT)):
        with pytest.MonkeyPatch.context() as patch, stderr_in(folder.parent / "said") as said:
            stop_after(patch, number, sent)
            with pytest.raises(SystemExit) as caught:
                STEPS[request.param].main([*words, *outputs(folder / "out")])
        assert caught.value.code == 128 + sent
        assert said.read_text().count(f"{name}: the training stops after this step") == 1
        how = f"stopped. Run the same command again to continue from step {number}"
        assert said.read_text().splitlines()[-1] == how
    assert not (folder / "out").exists()
    return request.param, words, folder


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """A step, its arguments and output, with a copy of what was left there."""
    step, words, folder = stopped_once
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return step, [*words, *outputs(tmp_path / "out")], tmp_path / "out"


def checkpoints(out: Path) -> list[str]:
    found = out.parent.glob(f".{out.name}.training/*/checkpoint-*")
    return sorted(path.name for path in found if path.is_dir())


def checkpoint(out: Path, number: int) -> Path:
    (found,) = out.parent.glob(f".{out.name}.training/*/checkpoint-{number}")
    return found


def test_a_stopped_training_goes_on_to_the_same_bytes(stopped, whole, capfd):
    step, words, out = stopped
    assert checkpoints(out) == ["checkpoint-3", "checkpoint-5"]
    STEPS[step].main(words)
    assert re.search(r"continuing from \S+/checkpoint-5\n", capfd.readouterr().err)
    assert result(out) == result(whole[step])
    assert not list(out.parent.glob(".*"))


# Flags, and the step in which a SIGTERM comes, in an epoch that is not the first.
OTHER_WAYS = {
    "packed": (["--batching", "packed"], 5),
    "by length": (
        ["--batching", "by_length", "--per-device-train-batch-size", "1", "--max-steps", "16"],
        14,
    ),
    "global balance": (
        ["--balance-loss-batch", "global", "--gradient-accumulation-steps", "2"],
        5,
    ),
    "averaged experts": (["--expert-averaging", "0.1"], 5),
    "8 bits": (["--optim", "adamw_8bit"], 5),
    "mean of the last": (["--average-last", "3", "--average-every", "2"], 5),
    "mean, before its first point": (["--average-last", "3", "--average-every", "2"], 3),
    "moving average": (["--ema-decay", "0.9", "--precision", "bf16_pure"], 5),
}


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_so_does_one_in_another_way(way, arguments, tmp_path, monkeypatch):
    flags, number = OTHER_WAYS[way]
    words = [*arguments["moe_sft"], *flags]
    moe_sft.main([*words, *outputs(tmp_path / "whole")])
    words += outputs(tmp_path / "out")
    with monkeypatch.context() as patch:
        stop_after(patch, number)
        with pytest.raises(SystemExit):
            moe_sft.main(words)
    assert checkpoints(tmp_path / "out") == [f"checkpoint-{number}"]
    moe_sft.main(words)
    assert result(tmp_path / "out") == result(tmp_path / "whole")


def test_another_learning_rate_starts_from_its_beginning_and_leaves_the_checkpoints(
    stopped, whole, capfd, tmp_path
):
    step, words, out = stopped
    other = [*words, "--learning-rate", "0.02"]
    STEPS[step].main(other)
    said = capfd.readouterr().err
    assert "going on" not in said
    assert re.search(
        r"\.out\.training/\w+ holds checkpoints of a training with other .*, .* MB", said
    )
    STEPS[step].main([*other, *outputs(tmp_path / "fresh")])
    assert result(out) == result(tmp_path / "fresh")
    STEPS[step].main(words)  # the old settings come back
    assert "continuing from" in capfd.readouterr().err
    assert result(out) == result(whole[step])
    assert not list(out.parent.glob(".*"))


def flip_a_byte(folder: Path) -> None:
    file = folder / "learned.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_another_interval_between_checkpoints_is_the_same_training(stopped, whole, capfd):
    step, words, out = stopped
    STEPS[step].main([*words, "--save-minutes", "0.5"])
    assert re.search(r"continuing from \S+/checkpoint-5\n", capfd.readouterr().err)
    assert result(out) == result(whole[step])


DAMAGE = {
    "a flipped byte": flip_a_byte,
    "a shortened file": lambda folder: os.truncate(folder / "optimizer.pt", 100),
    "a missing file": lambda folder: (folder / "rng_state.pth").unlink(),
    "no manifest": lambda folder: manifest_path(folder).unlink(),
    "an empty manifest": lambda folder: manifest_path(folder).write_text(""),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(stopped, whole, damage, capfd):
    step, words, out = stopped
    DAMAGE[damage](checkpoint(out, 5))
    STEPS[step].main(words)
    said = capfd.readouterr().err
    assert re.search(r"continuing from \S+/checkpoint-3\n", said)
    assert ("checkpoint-5" in said) == (damage != "no manifest")
    assert result(out) == result(whole[step])


def test_without_a_whole_checkpoint_it_starts_again(stopped, whole, capfd):
    step, words, out = stopped
    for number in (3, 5):
        flip_a_byte(checkpoint(out, number))
    STEPS[step].main(words)
    assert "continuing from /" not in capfd.readouterr().err
    assert result(out) == result(whole[step])


def test_a_second_training_of_the_same_output_is_refused(stopped):
    step, words, out = stopped
    owner = f"process {os.getpid()} on "
    with lock(out.parent / ".out.training"), pytest.raises(UserError, match=owner):
        STEPS[step].main(words)
    assert checkpoints(out) == ["checkpoint-3", "checkpoint-5"]


def test_the_newest_two_checkpoints_are_kept(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "SAVING_SHARE", 0)
    words = [*arguments["moe_sft"], *outputs(tmp_path / "out"), "--save-minutes", "0"]
    stop_after(monkeypatch, 7)
    with pytest.raises(SystemExit):
        moe_sft.main(words)
    assert checkpoints(tmp_path / "out") == ["checkpoint-6", "checkpoint-7"]


def test_a_stop_in_the_last_step_changes_nothing(arguments, whole, tmp_path, monkeypatch):
    stop_after(monkeypatch, LENGTH)
    moe_sft.main([*arguments["moe_sft"], *outputs(tmp_path / "out")])
    assert result(tmp_path / "out") == result(whole["moe_sft"])


SIGTERM_WHILE_WRITING = """
import os, signal
from workflow_scripts import {step}
from xft.cli import training
from xft.artifacts import artifact

artifact.write_checkpoint = lambda folder, plans: os.kill(os.getpid(), signal.SIGTERM)
training.run("{step}", {step}.main)
"""


def test_a_stop_while_the_artifact_is_written_leaves_the_checkpoint(
    stopped, whole, repository, fork_server
):
    step, words, out = stopped
    code = SIGTERM_WHILE_WRITING.format(step=step)
    done = subprocess.run(
        [PYTHON, "-c", code, *words], env=os.environ | {"PYTHONPATH": str(repository)}
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert {path.name for path in out.parent.iterdir()} == {".out.training", "out.jsonl"}
    STEPS[step].main(words)
    assert result(out) == result(whole[step])


@pytest.mark.parametrize(
    ("size", "minutes", "message"),
    [
        (
            "300k",
            "0",
            r"the checkpoint of step 1 could not be written to \S+, where 0 MB are free: ",
        ),
        ("100k", "60", r"No space left on device"),  # no checkpoint yet: the artifact does not fit
    ],
)
def test_a_full_disk_loses_nothing(arguments, whole, mount, run_step, size, minutes, message):
    disk = mount(f"size={size}")
    words = [*arguments["moe_sft"], *outputs(disk / "out"), "--save-minutes", minutes]
    done = run_step("moe_sft", *words)
    assert done.returncode == 1
    assert re.match(f"moe_sft: error: {message}", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
    subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
    assert run_step("moe_sft", *words).returncode == 0
    assert result(disk / "out") == result(whole["moe_sft"])


IMPATIENT = """
import sys
from workflow_scripts import moe_sft
from xft.common import progress
from xft.cli import training

progress.SECONDS_BEFORE_FIRST = progress.SECONDS_BETWEEN_LINES = 0
training.run("moe_sft", moe_sft.main)
"""


def test_the_message_comes_last_and_lines_name_the_job(
    arguments, tmp_path, repository, fork_server
):
    """With a bar that shows every step, so that it has something to say at its end."""
    words = [*arguments["moe_sft"], *outputs(tmp_path / "out"), "--learning-rate", "1e30"]
    done = subprocess.run(
        [PYTHON, "-c", IMPATIENT, *words],
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
    )
    *before, last = done.stderr.splitlines()
    assert last.startswith("moe_sft: error: step ")
    assert len(before) > 3 and all(line.startswith("moe_sft out: ") for line in before), before
    for start in ("device ", "train: 1/8 step, "):
        assert any(line.startswith(f"moe_sft out: {start}") for line in before)


@pytest.mark.parametrize("step", STEPS)
def test_a_loss_that_is_not_finite_stops_with_the_rows(step, arguments, tmp_path, monkeypatch):
    """The weights become NaN before step 3: no rounding decides when the loss does."""

    def on_step_begin(self, args, state, control, model, **kwargs):
        if state.global_step == 2:
            for parameter in model.parameters():
                parameter.data.fill_(float("nan"))

    monkeypatch.setattr(ProgressCallback, "on_step_begin", on_step_begin)
    monkeypatch.setattr(callbacks, "SAVING_SHARE", 0)
    words = [*arguments[step], *outputs(tmp_path / "out"), "--save-minutes", "0"]
    with pytest.raises(UserError) as caught:
        STEPS[step].main([*words, "--per-device-train-batch-size", "12"])
    fault = str(caught.value)
    assert fault.startswith("step 3: loss nan, gradient norm nan. Rows of the batch, ")
    rows = re.search(r"counted from 1: ([\d, ]+)\.", fault)[1]
    assert sorted(map(int, rows.split(", "))) == list(range(1, 13))
    assert f"Last good checkpoint: {checkpoint(tmp_path / 'out', 2)}. " in fault
    assert not (tmp_path / "out").exists()


def test_sigterm_for_the_whole_pipeline_saves_a_checkpoint(
    arguments, whole, tmp_path, repository, fork_server
):
    """As a cluster sends it: to the shell and to `tee` too, which then read nothing more."""
    out = tmp_path / "out"
    longer = [*arguments["moe_sft"], *outputs(out), "--max-steps", "2000"]
    command = f"{PYTHON} -m workflow_scripts.moe_sft {' '.join(longer)} 2>&1 | tee log"
    running = subprocess.Popen(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repository)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    metrics = out.with_suffix(".jsonl")
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGTERM)
    running.wait()
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob(".out.training/*/checkpoint-*.manifest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
