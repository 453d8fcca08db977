"""Trainings on several emulated GPUs, a process for each, beside one process on the CPU."""

import os
import signal
import time
from pathlib import Path

import pytest
from chains import Chain
from gpu_and_cpu import BF16, without_gpu
from mixtures import init_example, low_rank_mixture, varied_mixture
from processes import run_for, run_step, run_together
from trainings import additions, assert_same, identity, learn, lines_of, outputs, write_rows
from transformers.trainer_callback import DefaultFlowCallback

pytestmark = pytest.mark.usefixtures("fork_server")
GLOBAL_BATCH = 8
TRAINING = ["--max-steps", 4, "--learning-rate", 0.001, "--validation-rows", 8]
# The micro-batches of an optimiser step on two GPUs.
LAUNCHES = {"ddp": 2, "fsdp": 1, "zero2": 1, "zero3": 2}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"), additions(40, 3))


@pytest.fixture(scope="module")
def inputs(tiny_llama, rows, tmp_path_factory) -> list:
    """A mixture and rows. Its experts differ, and all of them compute each token.

    It has no noise and no balance loss, because these differ in parts of a batch.
    """
    experts = ["--num-experts", 4, "--num-experts-per-tok", 4, "--no-router-noise"]
    experts += ["--balance-loss-coef", 0, "--init", init_example("noise", share=0.5)]
    chain = Chain(tmp_path_factory.mktemp("inputs"), {"moe": experts}, base=tiny_llama, data=rows)
    return [*chain.words("moe_sft"), *TRAINING]


def alone(step: str, folder: Path, words: list) -> Path:
    """Where one process on the CPU ends, in fp32."""
    out = folder / "alone"
    with without_gpu():
        learn(step, out, *words, "--per-device-train-batch-size", GLOBAL_BATCH)
    return out


@pytest.fixture(scope="module")
def on_cpu(inputs, tmp_path_factory) -> Path:
    return alone("moe_sft", tmp_path_factory.mktemp("on_cpu"), inputs)


@pytest.fixture
def together(tmp_path, monkeypatch):
    """Callable (step, words, launch, precision, GPUs, micro-batches): where processes end that
    divide the global batch. is_killed: SIGKILL ends all of them in the third step.
    """

    def train(
        step: str,
        words: list,
        launch: str,
        precision: str,
        gpus: int,
        batches: int,
        name: str | None = None,
        is_killed: bool = False,
    ) -> Path:
        out = tmp_path / (name or precision)
        monkeypatch.setenv("EMULATED_GPUS", str(gpus))
        flags = ["--launch", launch, "--processes", gpus, "--precision", precision]
        flags += ["--per-device-train-batch-size", GLOBAL_BATCH // gpus // batches]
        flags += ["--gradient-accumulation-steps", batches, *outputs(out)]
        text = [str(word) for word in [*words, *flags]]
        if is_killed:
            run_together(run_until_killed, gpus, step, *text, status=-signal.SIGKILL)
        else:
            print(run_for(step, text, count=gpus))
        return out

    return train


def run_until_killed(step: str, *words: str) -> None:
    """Run a step that SIGKILL ends in the third optimiser step, once all processes are there.

    A process whose neighbour is gone would wait for it.
    """
    place = Path(words[words.index("--out") + 1]).parent

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            (place / f"rank{os.environ['RANK']}").touch()
            while len(list(place.glob("rank*"))) < int(os.environ["WORLD_SIZE"]):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    DefaultFlowCallback.on_step_begin = on_step_begin  # which all processes have
    run_step(step, *words)


@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_training_on_two_gpus_goes_on_after_a_kill(launch, inputs, together, capsys):
    """All of the optimiser's state, in whole or in shards, comes back to the devices."""
    settings = launch, "bf16", 2, LAUNCHES[launch]
    whole = together("moe_sft", inputs, *settings, name="whole")
    words = [*inputs, "--save-minutes", 0]
    out = together("moe_sft", words, *settings, is_killed=True)
    assert not out.exists()
    capsys.readouterr()
    together("moe_sft", words, *settings)
    assert "continuing from step" in capsys.readouterr().out
    assert identity(out) == identity(whole)
    assert lines_of(out) == lines_of(whole)


@pytest.mark.parametrize("launch", LAUNCHES)
def test_two_gpus_learn_what_the_cpu_learns(launch, inputs, on_cpu, together):
    found = together("moe_sft", inputs, launch, "fp32", 2, LAUNCHES[launch])
    assert_same(found, on_cpu, tolerance=1e-5)
    found = together("moe_sft", inputs, launch, "bf16", 2, LAUNCHES[launch])
    for line, other in zip(lines_of(found), lines_of(on_cpu), strict=True):
        for key in line.keys() & {"loss", "validation_loss"}:
            assert line[key] == pytest.approx(other[key], rel=BF16), key


@pytest.mark.parametrize("launch", ["ddp", "fsdp", "zero3"])
def test_eight_gpus_learn_what_the_cpu_learns(launch, inputs, on_cpu, together):
    assert_same(together("moe_sft", inputs, launch, "fp32", 8, 1), on_cpu, tolerance=1e-5)


@pytest.mark.parametrize("launch", ["fsdp", "zero2", "zero3"])
def test_the_optimizer_may_be_in_the_hosts_memory(launch, inputs, on_cpu, together):
    """Pinned, and with DeepSpeed's Adam for CPUs, which rounds differently."""
    found = together("moe_sft", [*inputs, "--offload-optimizer"], launch, "fp32", 2, 1)
    assert_same(found, on_cpu, tolerance=1e-5 if launch == "fsdp" else 1e-4)


def test_a_mixing(tiny_llama, rows, tmp_path, together):
    """With gradients that are clipped."""
    varied_mixture(tiny_llama, tmp_path)
    chain = Chain(tmp_path, base=tiny_llama, moe_sft=tmp_path / "moe_sft", data=rows)
    words = [*chain.words("weighted_trained"), "--max-steps", 4, "--learning-rate", 0.1]
    words += ["--max-grad-norm", 1e-3]
    found = together("weighted_trained", words, "ddp", "fp32", 2, 2)
    assert_same(found, alone("weighted_trained", tmp_path, words), tolerance=1e-4)


def test_lora_experts_in_shards(tiny_llama, rows, tmp_path, together):
    plain = {"router_noise": False, "balance_loss_coef": 0.0, "num_experts_per_tok": 4}
    mixture = low_rank_mixture(tiny_llama, tmp_path / "moe", train_rest="lora", **plain)
    words = ["--moe", mixture, "--data", rows, *TRAINING]
    found = together("moe_sft", words, "zero3", "fp32", 2, 2)
    assert_same(found, alone("moe_sft", tmp_path, words), tolerance=1e-4)
