"""Two processes learn what one learns from the same global batch: mixing, LoRA experts, and a
balance loss over the global batch. test_launch.py has the full experts.
"""

from pathlib import Path

import pytest
import torch
from chains import Chain
from mixtures import init_example, low_rank_mixture, varied_mixture
from processes import run_for
from safetensors.torch import load_file
from trainings import additions, learn, lines_of, outputs, write_rows

pytestmark = [pytest.mark.ci, pytest.mark.usefixtures("fork_server")]
FLAGS = ["--max-steps", 6, "--per-device-train-batch-size", 8]
HALF = ["--per-device-train-batch-size", 4]
# One process has one batch of these rows more than the other.
BEST = ["--validation-rows", 9, "--eval-steps", 2, "--keep", "best"]


def assert_same(step: str, words: list, halved: list, folder: Path, tolerance: float) -> dict:
    """Train in one process, and with the flags `halved` in two, whose metrics must be the same.

    By name, the weights of both.
    """
    one, two = folder / "one", folder / "two"
    expected = learn(step, one, *words, *FLAGS)
    flags = [*words, *FLAGS, "--processes", 2, *halved, *outputs(two)]
    run_for(step, list(map(str, flags)), count=2)
    for line, other in zip(lines_of(two), expected, strict=True):
        assert line.keys() == other.keys()
        for key in line.keys() & {"step", "loss", "grad_norm", "validation_loss"}:
            assert line[key] == pytest.approx(other[key], rel=tolerance), key
    weights = [load_file(path / "model.safetensors") for path in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    return {name: [tensors[name] for tensors in weights] for name in weights[0]}


def test_mixing(tiny_llama, tmp_path):
    """With gradients that are clipped, and one row in each epoch's last batch, which one of the
    processes does not have.
    """
    varied_mixture(tiny_llama, tmp_path)
    given = {"moe_sft": tmp_path / "moe_sft", "data": write_rows(tmp_path, additions(18, 3))}
    chain = Chain(tmp_path, base=tiny_llama, **given)
    words = [*chain.words("weighted_trained"), *BEST, "--learning-rate", 0.1]
    words += ["--max-grad-norm", 1e-3, "--activation-checkpointing"]
    ddp = ["--launch", "ddp", *HALF]
    weights = assert_same("weighted_trained", words, ddp, tmp_path, tolerance=1e-6)
    assert min(line["grad_norm"] for line in lines_of(tmp_path / "two") if "loss" in line) > 1e-3
    for name, (one, two) in weights.items():
        assert (two - one).abs().max() <= 2e-6 * one.abs().max(), name


@pytest.mark.needs("deepspeed")
def test_low_rank_experts_in_shards(tiny_llama, tmp_path):
    """All experts compute each token, so that no rounding changes a token's experts. AdamW makes
    much of the rounding of small gradients, so the norm of what was learned counts.
    """
    plain = {"router_noise": False, "balance_loss_coef": 0.0, "num_experts_per_tok": 4}
    mixture = low_rank_mixture(tiny_llama, tmp_path / "moe", train_rest="lora", **plain)
    words = ["--moe", mixture, "--data", write_rows(tmp_path, additions(17, 3)), *BEST]
    words += ["--learning-rate", 0.01]
    zero3 = ["--launch", "zero3", *HALF]
    weights = assert_same("moe_sft", words, zero3, tmp_path, tolerance=1e-3)
    before = load_file(mixture / "model.safetensors")
    for name, (one, two) in weights.items():
        learned = torch.linalg.vector_norm(one - before[name])
        assert torch.linalg.vector_norm(two - one) <= 0.01 * learned, name


def test_a_balance_loss_over_the_global_batch_and_an_average(tiny_llama, tmp_path):
    """Without noise, which a part has of its own, and with experts that differ: equal ones would
    leave the router a gradient of rounding errors, and Adam makes whole steps of those.
    """
    experts = ["--num-experts", 4, "--num-experts-per-tok", 3, "--no-router-noise"]
    experts += ["--init", init_example("noise", share=0.5), "--balance-loss-coef", 0.5]
    chain = Chain(tmp_path, {"moe": experts}, base=tiny_llama, data=write_rows(tmp_path))
    callback = Path("examples/callbacks/global_balance.py").resolve()
    words = [*chain.words("moe_sft"), "--callbacks", f"{callback}:GlobalBalance"]
    words += ["--learning-rate", 0.001, "--ema-decay", 0.5]
    ddp = ["--launch", "ddp", "--per-device-train-batch-size", 2]
    ddp += ["--gradient-accumulation-steps", 2]
    weights = assert_same("moe_sft", words, ddp, tmp_path, tolerance=2e-6)
    for name, (one, two) in weights.items():
        error = torch.linalg.vector_norm(two - one)
        assert error <= 2e-6 * torch.linalg.vector_norm(one), name
