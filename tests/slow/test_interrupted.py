"""Ctrl-C, which a terminal sends to the whole process group: to the shell, the step and `tee`."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import run_for

from xft.cli.running import without_torchrun
from xft.training.launch import SECONDS_TO_STOP

pytestmark = pytest.mark.slow
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TORCHRUN += ["--shutdown-timeout", str(SECONDS_TO_STOP), "-m"]
WAYS = {
    "one process": ([], [], 128 + signal.SIGINT),
    "torchrun": (TORCHRUN, ["--launch", "ddp", "--processes", "2"], 1),
}
IN_STEP_4 = """
import time
from xft.training.callbacks import SaveCallback

def wait(self, args, state, control, **kwargs):
    if state.global_step == 3:
        time.sleep(3600)

SaveCallback.on_step_begin = wait
"""


@pytest.fixture(scope="module")
def inputs(tiny_llama, tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("inputs")
    rows = [{"instruction": f"Add {n} to x.", "response": f"return x + {n}"} for n in range(12)]
    file = root / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = ["--num-experts", "4", "--num-experts-per-tok", "3"]
    assert run_for("moe", ["--base", str(tiny_llama), "--out", str(root / "moe"), *sizes])
    return ["--moe", str(root / "moe"), "--data", str(file), "--max-steps", "100000"]


@pytest.fixture
def start(inputs, tmp_path, repository):
    """Callable (way): a training as a rule starts it, in its third step or later.

    It has a process group of its own, and writes to `tmp_path / "log"`. Modules in `tmp_path` are
    found first.
    """

    def start(way: str) -> subprocess.Popen:
        launcher, flags, _ = WAYS[way]
        words = [*launcher, "workflow_scripts.moe_sft", *inputs, *flags]
        words += ["--out", "out", "--metrics", "out.jsonl"]
        step = shlex.join([sys.executable, "-m", *words])
        running = subprocess.Popen(
            ["bash", "-c", f"set -euo pipefail; trap '' TERM; {step} 2>&1 | tee -i log"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": f"{tmp_path}:{repository}"},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: lines_of(tmp_path / "out.jsonl") >= 3, running)
        return running

    return start


def wait_until(is_so: Callable[[], bool], running: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not is_so():
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lines_of(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


def checkpoints(out: Path) -> list[str]:
    """The steps after which whole checkpoints were written."""
    found = out.parent.glob(f".{out.name}.training/*/checkpoint-*.manifest.json")
    return sorted(re.search(r"checkpoint-(\d+)", path.name)[1] for path in found)


@pytest.mark.parametrize("way", WAYS)
def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(start, tmp_path, way):
    running = start(way)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait() == WAYS[way][2]
    log = (tmp_path / "log").read_text()
    (number,) = checkpoints(tmp_path / "out")
    assert log.count("Ctrl-C: the training stops after this step.") == 1
    how = f"moe_sft out: stopped. Run the same command again to continue from step {number}"
    assert without_torchrun(log).splitlines()[-1] == how

    (tmp_path / "out.jsonl").unlink()
    running = start(way)
    os.killpg(running.pid, signal.SIGINT)
    running.wait()
    assert f"/checkpoint-{number}\n" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("way", WAYS)
def test_a_second_ctrl_c_ends_at_once(start, tmp_path, way):
    """In the midst of a step that takes an hour."""
    (tmp_path / "sitecustomize.py").write_text(IN_STEP_4)
    running = start(way)
    os.killpg(running.pid, signal.SIGINT)
    wait_until(lambda: "Ctrl-C: the training stops" in (tmp_path / "log").read_text(), running)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait() == WAYS[way][2]
    assert checkpoints(tmp_path / "out") == []
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "--metrics out.jsonl" not in found.stdout


def test_ctrl_c_reaches_a_training_through_snakemake(new_project):
    project = new_project("interrupted")
    project.overlay = project.overlay | {
        "moe_sft": {"max_steps": 100000, "per_device_train_batch_size": 4}
    }
    for rules in (project.folder / "rules").glob("*.smk"):  # once the rules have it: nothing
        rules.write_text(re.sub(r"\| tee (?!-i)", "| tee -i ", rules.read_text()))
    out = project.results / "moe_sft"
    said = project.folder / "said"
    for number in range(2):
        with said.open("w") as file:
            running = subprocess.Popen(
                project.command(str(out.relative_to(project.folder)) + ".manifest.json"),
                cwd=project.folder,
                env=project.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        earlier = int(checkpoints(out)[0]) if number else 0
        metrics = project.results / "metrics" / "moe_sft.jsonl"
        wait_until(lambda: lines_of(metrics) >= earlier + 3, running)  # noqa: B023
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait() == 1
        assert "moe_sft: stopped. Run the same command again to continue from" in said.read_text()
        assert "LockException" not in said.read_text()
    assert re.search(rf"continuing from \S+/checkpoint-{earlier}\n", said.read_text())
    assert int(checkpoints(out)[-1]) > earlier
