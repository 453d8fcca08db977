"""The steps compute on the emulated GPU what they compute on the CPU."""

from pathlib import Path

import pytest
import torch
from chains import SIZES, Chain
from gpu_and_cpu import BF16, on_both
from mixtures import low_rank_mixture
from safetensors.torch import load_file
from trainings import learn, stopped_in

from xft.modeling import experts

STEPS = ["--max-steps", 3, "--per-device-train-batch-size", 4, "--learning-rate", 0.01]
# Flags of a training by what is special in it.
TRAININGS = {
    "padded": ["--precision", "bf16"],
    "packed": ["--precision", "bf16", "--batching", "packed"],
    "by_length": ["--precision", "bf16", "--batching", "by_length", "--activation-checkpointing"],
    "average": ["--precision", "fp32", "--ema-decay", 0.5],
    "pure": ["--precision", "bf16_pure"],
}
MODEL = "model.safetensors"


@pytest.fixture
def grouped(monkeypatch) -> list[bool]:
    """Whether a grouped product was taken, for each choice in the test."""
    choose, chosen = experts.has_fast_grouped_mm, []

    def noted(rows, *weights):
        chosen.append(choose(rows, *weights))
        return chosen[-1]

    monkeypatch.setattr(experts, "has_fast_grouped_mm", noted)
    return chosen


@pytest.fixture(scope="module")
def quiet(tiny_llama, tmp_path_factory) -> Path:
    """A mixture without noise, which a GPU and a CPU draw otherwise. Read only."""
    options = {"moe": [*SIZES, "--no-router-noise"]}
    return Chain(tmp_path_factory.mktemp("quiet"), options, base=tiny_llama)["moe"]


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_training_of_a_mixture(kind, quiet, data, tmp_path, grouped):
    """Its losses are those of the CPU but for rounding. An H100 takes grouped products in bf16."""

    def losses(place: str) -> list[float]:
        words = ["--moe", quiet, "--data", data, *STEPS, *TRAININGS[kind]]
        return [line["loss"] for line in learn("moe_sft", tmp_path / place, *words)]

    found, expected = on_both(losses)
    is_fp32 = "fp32" in TRAININGS[kind]
    assert found == pytest.approx(expected, rel=1e-4 if is_fp32 else BF16)
    assert any(grouped) == (torch.cuda.get_device_capability() >= (9, 0) and not is_fp32)


def test_a_training_of_lora_experts(tiny_llama, data, tmp_path):
    """The products beside the frozen base are in bf16, as those of the base."""
    mixture = low_rank_mixture(tiny_llama, tmp_path / "moe", router_noise=False)

    def losses(place: str) -> list[float]:
        words = ["--moe", mixture, "--data", data, *STEPS, "--precision", "bf16"]
        return [line["loss"] for line in learn("moe_sft", tmp_path / place, *words)]

    found, expected = on_both(losses)
    assert found == pytest.approx(expected, rel=BF16)


def test_a_training_that_is_stopped_goes_on_to_the_same_bytes(upcycled, data, tmp_path):
    """Also with noise, which the GPU's generator draws."""
    words = ["--moe", upcycled, "--data", data, *STEPS]
    whole = learn("moe_sft", tmp_path / "whole", *words)
    with stopped_in(2):
        learn("moe_sft", tmp_path / "parts", *words)
    assert learn("moe_sft", tmp_path / "parts", *words) == whole
    models = [(tmp_path / name / MODEL).read_bytes() for name in ("whole", "parts")]
    assert models[0] == models[1]


def test_a_mixing_and_its_merge(chain, data, tmp_path):
    """The coefficients are those of the CPU but for rounding. The merge reads files, and is the
    same to the byte.
    """

    def mix(place: str) -> Chain:
        given = {name: chain[name] for name in ("moe_sft", "ffn", "weighted_init")}
        flags = {"weighted_trained": [*STEPS, "--precision", "fp32"]}
        mixed = Chain(tmp_path / place, flags, data=data, **given)
        mixed["weighted_trained"]
        return mixed

    on_gpu, on_cpu = on_both(mix)
    found, expected = (load_file(one["weighted_trained"] / MODEL) for one in (on_gpu, on_cpu))
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-3, atol=1e-4)

    def merge(place: str) -> bytes:
        given = {name: on_gpu[name] for name in ("moe_sft", "ffn", "weighted_trained")}
        return (Chain(tmp_path / "merged" / place, **given)["dense"] / MODEL).read_bytes()

    merged, expected_merge = on_both(merge)
    assert merged == expected_merge
