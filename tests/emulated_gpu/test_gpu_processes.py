"""Trainings on several emulated GPUs, a process for each, beside one process on the CPU."""

from pathlib import Path

import pytest
from chains import Chain
from gpu_and_cpu import BF16, without_gpu
from mixtures import init_example
from processes import run_for
from trainings import additions, assert_same, learn, lines_of, outputs, write_rows

pytestmark = pytest.mark.usefixtures("fork_server")
GLOBAL_BATCH = 8
TRAINING = ["--max-steps", 4, "--learning-rate", 0.001, "--validation-rows", 8]
LAUNCHES = {
    "ddp": ["--gradient-accumulation-steps", 2],
    "fsdp": [],
    "zero2": [],
    "zero3": ["--gradient-accumulation-steps", 2],
}


@pytest.fixture(scope="module")
def inputs(tiny_llama, tmp_path_factory) -> list:
    """A mixture of experts that differ, all of which compute each token, and rows. It has no noise
    and no balance loss, which differ in parts of a batch.
    """
    root = tmp_path_factory.mktemp("inputs")
    experts = ["--num-experts", 4, "--num-experts-per-tok", 4, "--no-router-noise"]
    experts += ["--balance-loss-coef", 0, "--init", init_example("noise", share=0.5)]
    chain = Chain(root, {"moe": experts}, base=tiny_llama, data=write_rows(root, additions(40, 3)))
    return [*chain.words("moe_sft"), *TRAINING]


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory) -> Path:
    """Where one process on the CPU ends, in fp32."""
    out = tmp_path_factory.mktemp("alone") / "out"
    with without_gpu():
        learn("moe_sft", out, *inputs, "--per-device-train-batch-size", GLOBAL_BATCH)
    return out


def learned(out: Path, words: list, launch: str, processes: int, *more: str) -> Path:
    """Where processes end that divide the global batch among them."""
    flags = ["--launch", launch, "--processes", processes, *LAUNCHES[launch], *more]
    rows = GLOBAL_BATCH // processes // (2 if "--gradient-accumulation-steps" in flags else 1)
    flags += ["--per-device-train-batch-size", rows, *outputs(out)]
    run_for("moe_sft", list(map(str, [*words, *flags])), count=processes)
    return out


@pytest.mark.parametrize("launch", LAUNCHES)
def test_two_gpus_learn_what_the_cpu_learns(launch, inputs, alone, tmp_path, monkeypatch):
    monkeypatch.setenv("EMULATED_GPUS", "2")
    out = learned(tmp_path / "fp32", inputs, launch, 2, "--precision", "fp32")
    assert_same(out, alone, tolerance=1e-5)
    out = learned(tmp_path / "bf16", inputs, launch, 2, "--precision", "bf16")
    for line, other in zip(lines_of(out), lines_of(alone), strict=True):
        for key in line.keys() & {"loss", "validation_loss"}:
            assert line[key] == pytest.approx(other[key], rel=BF16), key
