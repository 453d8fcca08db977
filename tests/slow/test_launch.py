"""Trainings in several processes: what they learn, what ends them, how they go on."""

import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from mixtures import low_rank_mixture
from processes import free_port, run_for
from safetensors.torch import load_file, save_file

from xft.artifacts.manifest import manifest_path, read_manifest
from xft.cli.running import failure
from xft.config.sections import MoeSftConfig
from xft.training import extensions
from xft.training.launch import torchrun

pytestmark = pytest.mark.ci
TOLERANCE = 1e-6
DEADLINE = 300  # seconds; for what takes a moment on a machine that is not busy
PAUSE = Path(__file__).parents[1] / "pause"
STRATEGIES = {
    "ddp": ["--launch", "ddp"],
    "zero2": ["--launch", "zero2"],
    "zero3, accumulated": [
        *("--launch", "zero3", "--per-device-train-batch-size", "2"),
        *("--gradient-accumulation-steps", "2"),
    ],
    "fsdp": ["--launch", "fsdp"],
}
# AdamW makes more of the rounding of sums in another order. At this rate it stays below TOLERANCE:
# at 0.001 one processor had 1.6e-6. A training with half of each batch differs far more.
TRAINING = [
    *("--max-steps", "20", "--max-length", "300", "--learning-rate", "0.0002"),
    *("--per-device-train-batch-size", "4"),
]


@pytest.fixture(scope="module")
def inputs(tiny_llama, tmp_path_factory) -> list[str]:
    return make_inputs(tiny_llama, tmp_path_factory.mktemp("inputs"), 4, 3)


def make_inputs(base: Path, root: Path, experts: int, per_token: int) -> list[str]:
    """A mixture whose experts differ, and rows. Without noise and balance loss, which differ in
    other parts of a batch.
    """
    folder = root / "moe"
    words = ["--base", str(base), "--out", str(folder), "--num-experts", str(experts)]
    plain = ["--no-router-noise", "--balance-loss-coef", "0"]
    assert run_for("moe", [*words, "--num-experts-per-tok", str(per_token), *plain])
    file = folder / "model.safetensors"
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(file)
    for name in sorted(name for name in tensors if ".experts." in name):
        tensors[name] += 0.02 * torch.randn(tensors[name].shape, generator=generator)
    file.unlink()
    save_file(tensors, file)
    manifest_path(folder).unlink()
    rows = [
        {"instruction": f"Add {n} to x.", "response": f"return x + {n}" * (1 + n % 5)}
        for n in range(64)
    ]
    data = root / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--moe", str(folder), "--data", str(data), *TRAINING]


@pytest.fixture
def learn(inputs, tmp_path):
    """Callable (name, *flags): the losses of a training in two processes that were launched
    already, and the weights.
    """

    def run(name: str, *flags: str) -> tuple[list[float], dict]:
        out = tmp_path / name
        assert run_for("moe_sft", [*inputs, *outputs(out), *flags, "--processes", "2"], count=2)
        return result(out)

    return run


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """The same of one process with the whole batch."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run_for("moe_sft", [*inputs, *outputs(out), "--per-device-train-batch-size", "8"])
    return result(out)


def outputs(out: Path) -> list[str]:
    return ["--out", str(out), "--metrics", str(out.with_suffix(".jsonl"))]


def result(out: Path) -> tuple[list[float], dict]:
    lines = out.with_suffix(".jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines], load_file(out / "model.safetensors")


def assert_same(learned, expected, tolerance: float = TOLERANCE) -> None:
    losses, weights = learned
    assert len(losses) == 20
    assert losses == pytest.approx(expected[0], rel=tolerance)
    assert weights.keys() == expected[1].keys()
    for name, tensor in expected[1].items():
        assert weights[name].dtype == tensor.dtype
        error = torch.linalg.vector_norm(weights[name] - tensor)
        assert error <= tolerance * torch.linalg.vector_norm(tensor), name


@pytest.mark.parametrize("launch", ["zero2", "zero3", "fsdp"])
def test_a_tied_head_that_is_stored_is_trained_too(tiny_llama, tmp_path, launch):
    base = tmp_path / "base"
    shutil.copytree(tiny_llama, base)
    config = json.loads((base / "config.json").read_text()) | {"tie_word_embeddings": True}
    (base / "config.json").write_text(json.dumps(config))
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, base / "model.safetensors")
    inputs = make_inputs(base, tmp_path, 4, 3)
    flags = ["--launch", launch, "--processes", "2", "--max-steps", "2"]
    assert run_for("moe_sft", [*inputs, *outputs(tmp_path / "out"), *flags], count=2)
    _, tuned = result(tmp_path / "out")
    assert tuned["lm_head.weight"].equal(tuned["model.embed_tokens.weight"])
    assert not tuned["lm_head.weight"].equal(weights["lm_head.weight"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_learn_what_one_learns(learn, whole, strategy):
    assert_same(learn("out", *STRATEGIES[strategy]), whole)


def test_two_processes_average_experts_as_one_does(learn, inputs, whole, tmp_path):
    averaging = ["--expert-averaging", "0.05"]
    out, flags = tmp_path / "one", [*averaging, "--per-device-train-batch-size", "8"]
    assert run_for("moe_sft", [*inputs, *outputs(out), *flags])
    expected = result(out)
    assert expected[0][-1] != pytest.approx(whole[0][-1], rel=1e-4)
    assert_same(learn("out", "--launch", "ddp", *averaging), expected)


@pytest.mark.parametrize("launch", ["zero2", "zero3"])
def test_shards_average_what_one_process_averages(inputs, tmp_path, launch):
    """The mean, and the loss of the mean, which stands in the last line."""
    mean = ["--average-last", "4", "--average-every", "5", "--validation-rows", "8"]
    found = []
    for name, flags in (
        ("whole", ["--per-device-train-batch-size", "8"]),
        ("two", ["--launch", launch, "--processes", "2"]),
    ):
        out = tmp_path / name
        assert run_for("moe_sft", [*inputs, *outputs(out), *mean, *flags], count=1 + len(found))
        *lines, last = out.with_suffix(".jsonl").read_text().splitlines()
        out.with_suffix(".jsonl").write_text("\n".join(lines))
        found.append((result(out), json.loads(last)))
    (whole, loss), (two, other) = found
    assert_same(two, whole)
    assert other == pytest.approx(loss, rel=TOLERANCE)


@pytest.mark.parametrize("launch", ["ddp", "zero3"])
def test_experts_without_tokens_are_no_hindrance(tiny_llama, tmp_path, launch):
    """With a row in each batch, some expert of the 15 has no token in a process."""
    inputs = make_inputs(tiny_llama, tmp_path, 16, 2)
    learned = []
    for name, flags in (("whole", []), ("two", ["--launch", launch, "--processes", "2"])):
        rows = ["--per-device-train-batch-size", str(2 - len(learned))]
        words = [*inputs, *outputs(tmp_path / name), *rows, *flags]
        assert run_for("moe_sft", words, count=1 + len(learned))
        learned.append(result(tmp_path / name))
    lines = map(json.loads, (tmp_path / "two.jsonl").read_text().splitlines())
    assert min(load for line in lines for layer in line["load"] for load in layer) == 0
    assert_same(learned[1], learned[0])


def test_an_offloaded_optimizer_learns_nearly_the_same(learn, whole):
    """DeepSpeed's Adam on the CPU rounds in another order."""
    flags = ["--launch", "zero2", "--offload-optimizer"]
    assert_same(learn("out", *flags), whole, tolerance=1e-5)


def test_zero_in_bf16_keeps_and_saves_fp32_masters(learn, inputs):
    """At a rate of almost 0 the weights stay what they were, to the last bit of fp32."""
    still = ["--precision", "bf16", "--learning-rate", "1e-30"]
    before = load_file(Path(inputs[1]) / "model.safetensors")
    for launch in ("zero2", "zero3"):
        _, after = learn(launch, *still, "--launch", launch)
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def start(
    repository, words: list[str], log: Path, nodes: int = 1, **environment: str
) -> subprocess.Popen:
    """A training as a rule starts it on each node, in as many processes as its words ask for."""
    count = int(words[words.index("--processes") + 1]) if "--processes" in words else 1
    options = MoeSftConfig(launch="zero3", processes=count, nodes=nodes)
    command = f"exec {torchrun(options)} -m workflow_scripts.moe_sft {shlex.join(words)}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with log.open("w") as file:
        return subprocess.Popen(
            ["bash", "-c", command],
            env=os.environ | {"PATH": path, "PYTHONPATH": str(repository)} | environment,
            stderr=file,
        )


def wait_for_steps(running: subprocess.Popen, out: Path, number: int) -> None:
    metrics = out.with_suffix(".jsonl")
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= number):
        assert running.poll() is None
        time.sleep(0.05)


def identity(out: Path) -> str:
    return read_manifest(manifest_path(out)).id


@pytest.mark.parametrize(
    ("launch", "experts"), [("zero2", "full"), ("zero3", "full"), ("zero3", "low-rank")]
)
def test_stopped_and_killed_it_goes_on_to_the_same_bytes(
    inputs, tiny_llama, repository, tmp_path, launch, experts
):
    words = [*inputs, "--launch", launch, "--processes", "2"]
    if experts == "low-rank":
        words[1] = str(low_rank_mixture(tiny_llama, tmp_path / "moe", train_rest="lora"))
    words += ["--average-last", "6", "--average-every", "3"]  # from step 5 on
    log, out, whole = tmp_path / "log", tmp_path / "out", tmp_path / "whole"
    assert start(repository, [*words, *outputs(whole)], log).wait() == 0
    words += outputs(out)
    pause = tmp_path / "pause"
    paused = {"PYTHONPATH": f"{repository}:{PAUSE}", "PAUSE": str(pause)}

    pause.write_text("moe_sft 6")
    running = start(repository, words, log, **paused)
    wait_for_steps(running, out, 5)
    running.terminate()
    while "SIGTERM: the training stops" not in log.read_text():
        time.sleep(0.05)
    pause.unlink()
    assert running.wait() == 1
    said = log.read_text()
    assert said.count("SIGTERM: the training stops after this step") == 1
    assert said.count("stopped. Run the same command again to continue from step") == 1
    (saved,) = tmp_path.glob(".out.training/*/checkpoint-*.manifest.json")
    names = [Path(name).name for name in read_manifest(saved).files]
    assert sum(name.endswith("optim_states.pt") for name in names) == 2

    pause.write_text("moe_sft 12")
    running = start(repository, [*words, "--save-minutes", "0"], log, **paused)
    while len(list(tmp_path.glob(".out.training/*/checkpoint-*.manifest.json"))) < 2:
        assert running.poll() is None
        time.sleep(0.05)
    running.kill()
    running.wait()
    assert re.search(rf"continuing from \S+/{saved.name.split('.')[0]}\n", log.read_text())

    pause.unlink()
    deadline = time.monotonic() + DEADLINE  # the processes end with their launcher
    while (status := start(repository, words, log).wait()) and time.monotonic() < deadline:
        assert "another process trains" in log.read_text()
    assert status == 0
    step = re.search(r"continuing from \S+/checkpoint-(\d+)\n", log.read_text())[1]
    assert int(step) > int(re.search(r"\d+", saved.name)[0])
    assert identity(out) == identity(whole)
    assert out.with_suffix(".jsonl").read_text() == whole.with_suffix(".jsonl").read_text()
    assert not list(tmp_path.glob(".*"))


def children(pid: int) -> list[int]:
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


def test_the_processes_end_with_a_killed_launcher(inputs, repository, tmp_path):
    words = [*inputs, *outputs(tmp_path / "out"), "--launch", "ddp", "--processes", "2"]
    running = start(repository, [*words, "--max-steps", "100000"], tmp_path / "log")
    wait_for_steps(running, tmp_path / "out", 3)
    workers = children(running.pid)
    assert len(workers) == 2
    running.kill()
    running.wait()
    deadline = time.monotonic() + DEADLINE
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("launch", ["ddp", "zero3"])
def test_an_error_is_told_once(inputs, repository, tmp_path, launch):
    flags = ["--launch", launch, "--processes", "2", "--learning-rate", "1e30"]
    log = tmp_path / "log"
    assert start(repository, [*inputs, *outputs(tmp_path / "out"), *flags], log).wait() == 1
    (fault,) = [line for line in log.read_text().splitlines() if "error: " in line]
    assert failure(log.read_text()) == fault
    assert re.match(r"moe_sft: error: step \d+: loss \S+, gradient norm (nan|inf)\. ", fault)
    assert len(re.search(r"counted from 1: ([\d, ]+)\.", fault)[1].split(",")) == 8


def test_two_nodes_learn_what_two_processes_of_one_learn(inputs, learn, repository, tmp_path):
    out = tmp_path / "nodes"
    words = [*inputs, *outputs(out), "--launch", "ddp", "--nodes", "2"]
    first = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    nodes = [start(repository, words, tmp_path / f"log{node}", 2, **first) for node in range(2)]
    assert [node.wait() for node in nodes] == [0, 0]
    losses, weights = learn("one", "--launch", "ddp")
    assert result(out)[0] == losses
    assert all(torch.equal(result(out)[1][name], tensor) for name, tensor in weights.items())


@contextmanager
def no_builds():
    """A block in which no process builds or loads an extension, as other tests may do."""
    with (extensions.BUILDS / "building").open("w") as building:
        fcntl.flock(building, fcntl.LOCK_EX)
        yield


def test_a_lock_that_a_killed_build_left_is_no_hindrance(learn, whole):
    learn("first", "--launch", "zero2")
    (library,) = extensions.BUILDS.rglob("deepspeed_shm_comm.so")
    lock = library.with_name("lock")
    with no_builds():
        lock.touch()
    assert_same(learn("second", "--launch", "zero2"), whole)
    with no_builds():
        assert not lock.exists()


def test_trainings_that_start_at_once_build_an_extension_once(inputs, whole, repository, tmp_path):
    words = [*inputs, "--launch", "zero2", "--processes", "2"]
    extensions = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    outs = [tmp_path / "first", tmp_path / "second"]
    both = [
        start(repository, [*words, *outputs(out)], out.with_suffix(".log"), **extensions)
        for out in outs
    ]
    for running, out in zip(both, outs, strict=True):
        assert running.wait() == 0, out.with_suffix(".log").read_text()
        assert_same(result(out), whole)
