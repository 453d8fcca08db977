"""Trainings in several processes: what they learn, what ends them, how they go on.

All have the global batches of one process, so that each must end where that one ends.
test_processes.py has mixing, LoRA experts, and what balances and averages.
"""

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from damage import change_json, change_tensors
from fork_server import PYTHON
from mixtures import init_example, low_rank_mixture
from processes import free_port, run_for
from safetensors.torch import load_file
from trainings import additions, assert_same, identity, lines_of, outputs, write_rows

from xft.artifacts.claims import OWNER, holder
from xft.artifacts.manifest import read_manifest
from xft.cli.running import failure
from xft.common.system import torchrun
from xft.config.sections import MoeSftConfig
from xft.training import engines

pytestmark = pytest.mark.ci
PAUSE = Path(__file__).parents[1] / "pause"
# AdamW makes more of the rounding of sums in another order. At this rate it stays below 1e-6: at
# 0.001 one processor had 1.6e-6. A training with half of each batch differs far more.
TRAINING = ["--max-steps", "20", "--max-length", "300", "--learning-rate", "0.0002"]
TRAINING += ["--per-device-train-batch-size", "2", "--validation-rows", "8"]
ACCUMULATES = "--per-device-train-batch-size", "1", "--gradient-accumulation-steps", "2"
# How two processes of one node train, and how far they may end from one process.
STRATEGIES = {
    "zero2": (["--launch", "zero2", "--offload-optimizer"], 1e-5),  # its Adam rounds differently
    "zero3": (["--launch", "zero3", *ACCUMULATES], 1e-6),
    "fsdp": (["--launch", "fsdp"], 1e-6),
}


@pytest.fixture(scope="module")
def inputs(tiny_llama, tmp_path_factory, fork_server) -> list[str]:
    """A mixture, rows, and what all trainings of them share.

    Its 16 experts differ, and some are without tokens in a micro-batch. Its head, tied to the
    embeddings, is stored. It has no noise and no balance loss, which differ in parts of a batch.
    """
    root = tmp_path_factory.mktemp("inputs")
    base = shutil.copytree(tiny_llama, root / "base")
    change_json(base / "config.json", tie_word_embeddings=True)
    change_tensors(base, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    words = ["--base", str(base), "--num-experts", "16", "--num-experts-per-tok", "2"]
    words += ["--init", init_example("noise", share=0.1)]
    words += ["--no-router-noise", "--balance-loss-coef", "0", "--out", str(root / "moe")]
    run_for("moe", words)
    rows = write_rows(root, additions(64, 5))
    return ["--moe", str(root / "moe"), "--data", str(rows), *TRAINING]


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory) -> Path:
    """Where one process ends with the whole batches."""
    out = tmp_path_factory.mktemp("alone") / "out"
    run_for("moe_sft", [*inputs, *outputs(out), "--per-device-train-batch-size", "4"])
    return out


def leave_lock() -> None:
    """Leave torch's lock in the folder of DeepSpeed's extensions, as a killed build does."""
    lock = engines.builds() / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with (engines.builds() / "building").open("w") as building:
        fcntl.flock(building, fcntl.LOCK_EX)
        lock.touch()


DEEPSPEED = pytest.mark.needs("deepspeed")
WITH_ZERO = [pytest.param(name, marks=DEEPSPEED) for name in ("zero2", "zero3")]


@pytest.mark.parametrize("strategy", [*WITH_ZERO, "fsdp"])
def test_two_processes_learn_what_one_learns(inputs, alone, tmp_path, strategy):
    if strategy != "fsdp":
        leave_lock()
    flags, tolerance = STRATEGIES[strategy]
    out = tmp_path / "out"
    run_for("moe_sft", [*inputs, *outputs(out), *flags, "--processes", "2"], count=2)
    assert_same(out, alone, tolerance)
    loads = [load for line in lines_of(out) for layer in line.get("load", []) for load in layer]
    assert min(loads) == 0
    before, after = (load_file(Path(p) / "model.safetensors") for p in (inputs[1], out))
    assert after["lm_head.weight"].equal(after["model.embed_tokens.weight"])
    assert not after["lm_head.weight"].equal(before["lm_head.weight"])


@pytest.mark.parametrize("launch", WITH_ZERO)
def test_zero_in_bf16_keeps_and_saves_fp32_masters(inputs, tmp_path, launch):
    """At a rate that fp32 rounds to 0 the weights stay what they were, to the last bit of fp32."""
    out, words = tmp_path / "out", ["--precision", "bf16", "--learning-rate", "1e-50"]
    words += ["--launch", launch, "--processes", "2", "--max-steps", "2"]
    run_for("moe_sft", [*inputs, *outputs(out), *words], count=2)
    before, after = (load_file(Path(p) / "model.safetensors") for p in (inputs[1], out))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def start(repository, words: list[str], log: Path, nodes=1, **environment) -> subprocess.Popen:
    """A training as a rule starts it on each node, in as many processes as its words ask for.

    torchrun and what it starts are forks of the server, unless PYTHON_EXEC names another Python.
    """
    count = int(words[words.index("--processes") + 1]) if "--processes" in words else 1
    command = f"exec {torchrun(count, nodes)} -m workflow_scripts.moe_sft {shlex.join(words)}"
    path = f"{PYTHON.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = os.environ | {"PATH": path, "PYTHONPATH": str(repository), "PYTHON_EXEC": str(PYTHON)}
    with log.open("w") as file:
        return subprocess.Popen(["bash", "-c", command], env=given | environment, stderr=file)


@pytest.mark.needs("tensorboard")
def test_two_nodes_learn_what_one_process_learns(inputs, alone, repository, tmp_path):
    """The first one writes for both, to a tracker too."""
    out = tmp_path / "nodes"
    words = [*inputs, *outputs(out), "--launch", "ddp", "--nodes", "2"]
    words += ["--report-to", "tensorboard"]
    first = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    nodes = [start(repository, words, tmp_path / f"log{node}", 2, **first) for node in range(2)]
    assert [node.wait() for node in nodes] == [0, 0]
    assert_same(out, alone)
    assert len(list(tmp_path.rglob("events.out.tfevents.*"))) == 1


def test_an_error_is_told_once(inputs, repository, tmp_path):
    flags = ["--launch", "ddp", "--processes", "2", "--learning-rate", "1e12"]
    log = tmp_path / "log"
    assert start(repository, [*inputs, *outputs(tmp_path / "out"), *flags], log).wait() == 1
    (fault,) = [line for line in log.read_text().splitlines() if "error: " in line]
    assert f"moe_sft: error: {failure(log.read_text())}" == fault
    assert re.match(r"moe_sft: error: step \d+: loss \S+, gradient norm (nan|inf)\. ", fault)
    assert len(re.search(r"counted from 1: ([\d, ]+)\.", fault)[1].split(",")) == 4


def wait_for(happens, running: subprocess.Popen) -> None:
    while not happens():
        assert running.poll() is None
        time.sleep(0.05)


@DEEPSPEED
def test_stopped_and_killed_it_goes_on_to_the_same_bytes(inputs, tiny_llama, repository, tmp_path):
    """A mixture with LoRA experts. Its checkpoints hold only the trainable weights."""
    log, out, whole, pause = (tmp_path / name for name in ("log", "out", "whole", "pause"))
    mixture = low_rank_mixture(tiny_llama, tmp_path / "moe", train_rest="lora")
    words = ["--moe", str(mixture), *inputs[2:], "--launch", "zero3", "--processes", "2"]
    run_for("moe_sft", [*words, *outputs(whole)], count=2)
    words += outputs(out)
    paused = {"PYTHONPATH": f"{repository}:{PAUSE}", "PAUSE": str(pause)}

    def checkpoints() -> list[Path]:
        return list(tmp_path.glob(".out.training/*/checkpoint-*.manifest.json"))

    pause.write_text("moe_sft 6")
    running = start(repository, words, log, **paused)
    metrics = out.with_suffix(".jsonl")
    wait_for(lambda: metrics.exists() and len(lines_of(out)) >= 5, running)
    running.terminate()
    wait_for(lambda: "SIGTERM: the training stops" in log.read_text(), running)
    pause.unlink()
    assert running.wait() == 1
    said = log.read_text()
    assert said.count("SIGTERM: the training stops after this step") == 1
    assert said.count("stopped. Run the same command again to continue from step") == 1
    (saved,) = checkpoints()
    names = [Path(name).name for name in read_manifest(saved).files]
    assert sum(name.endswith("optim_states.pt") for name in names) == 2

    pause.write_text("moe_sft 12")
    killed = paused | {"PYTHON_EXEC": sys.executable}
    running = start(repository, [*words, "--save-minutes", "0"], log, **killed)
    wait_for(lambda: len(checkpoints()) >= 2, running)
    running.kill()
    running.wait()
    number = re.search(r"\d+", saved.name)[0]
    assert f"continuing from step {number}\n" in log.read_text()

    pause.unlink()
    while holder(tmp_path / ".out.training" / OWNER):  # the processes end with their launcher
        time.sleep(0.05)
    assert start(repository, words, log).wait() == 0
    step = re.search(r"continuing from step (\d+)\n", log.read_text())[1]
    assert int(step) > int(number)
    assert identity(out) == identity(whole)
    assert metrics.read_text() == whole.with_suffix(".jsonl").read_text()
    assert not list(tmp_path.glob(".*"))


class Evil:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@DEEPSPEED
def test_deepspeed_runs_no_code_of_a_checkpoint(tmp_path, monkeypatch):
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    monkeypatch.setattr(engines, "load_extensions", lambda offload: None)  # nothing communicates
    engines.prepare_engine(MoeSftConfig(launch="zero2"))
    states, touched = tmp_path / "states.pt", tmp_path / "touched"
    torch.save({"weight": torch.ones(2)}, states)
    assert TorchCheckpointEngine().load(str(states))["weight"].tolist() == [1, 1]
    torch.save(Evil(touched), states)
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        TorchCheckpointEngine().load(str(states))
    assert not touched.exists()
