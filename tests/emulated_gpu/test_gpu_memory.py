"""Too little memory on a GPU: real errors of torch's allocator, and what the user reads."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from chains import Chain
from problem_files import three_problems, write_problems

MIB = 2**20
STEPS = ["--max-steps", 1, "--per-device-train-batch-size", 4]
EXPANDABLE = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
# 120 MiB are asked for, and 40 of the first 100 stay free.
IN_PIECES = """
import torch

def tensor(mib):
    return torch.ones(mib * 2**20, dtype=torch.int8, device="cuda")

tensor(100)
both = tensor(60), tensor(60)
assert all(bool(half.all()) for half in both)
"""
SECTIONS = {"moe_sft": "moe_sft", "sft": "sft", "weighted_trained": "mixing"}


@pytest.fixture
def full_gpu() -> Iterator[None]:
    """A GPU with room for one more block of small tensors, and not for cuBLAS's workspace."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    most = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + 3 * MIB
    torch.cuda.set_per_process_memory_fraction(room / most)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def check_told(done, step: str, *advice: str, said: str = "Tried to allocate") -> None:
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{step}: error: the memory of the GPU is full. " in done.stderr
    for words in (said, *advice):
        assert words in done.stderr


@pytest.mark.parametrize("step", SECTIONS)
def test_a_training_names_the_keys_that_save_memory(
    step, chain, data, tmp_path, call_step, full_gpu
):
    done = call_step(step, *chain.words(step), *STEPS, "--out", tmp_path / step)
    keys = [f"{SECTIONS[step]}.{name}" for name in ("per_device_train_batch_size", "precision")]
    check_told(done, step, *keys, "xft plan --config FILE --details", "expandable_segments:True")
    assert not (tmp_path / step).exists()


@pytest.fixture
def measurements(tiny_llama, data, tmp_path) -> dict[str, list]:
    """The arguments of the steps that measure a model, by step. Each writes a file of its name."""
    rows = {"tokens": ["--validation-rows", 4]}
    tokens = Chain(tmp_path, rows, base=tiny_llama, data=data)["tokens"]
    problems = write_problems(tmp_path / "sums.jsonl", three_problems())
    given = {
        "validation_loss": ["--data", tokens],
        "eval": ["--dataset", problems, "--prompt", "completion", "--max-new-tokens", 64],
    }
    shared = ["--model", tiny_llama]
    return {step: [*shared, *words, "--out", tmp_path / step] for step, words in given.items()}


ADVICE = {"eval": "Lower evaluation.batch_size", "validation_loss": "gpus: 0 in the config"}


@pytest.mark.parametrize("step", ADVICE)
def test_a_measurement_says_what_to_do(step, measurements, call_step, bubblewrap, full_gpu):
    check_told(call_step(step, *measurements[step]), step, ADVICE[step])
    assert not measurements[step][-1].exists()


def test_a_card_that_others_have_filled(
    measurements, chain, tmp_path, run_step, bubblewrap, monkeypatch
):
    """CUDA cannot begin there. A training notices it before torch's allocator does."""
    monkeypatch.setenv("EMULATED_GPU_GIB", "0")
    tuning = [*chain.words("moe_sft"), *STEPS, "--out", tmp_path / "moe_sft"]
    for step, words in {"moe_sft": tuning, **measurements}.items():
        said = "CUDA error: out of memory" if step == "moe_sft" else "CUDA out of memory"
        check_told(run_step(step, *words), step, "nvidia-smi shows who else uses it", said=said)


def run_python(*words, **environment) -> subprocess.CompletedProcess:
    """Python in a new process, as torch reads its settings when it is imported."""
    environment = os.environ | environment
    words = [sys.executable, *map(str, words)]
    return subprocess.run(words, env=environment, capture_output=True, text=True)


def test_expandable_segments_use_what_is_free_in_pieces():
    card = {"EMULATED_GPU_GIB": "0.155"}
    usual = run_python("-c", IN_PIECES, **card)
    assert "Tried to allocate 60.00 MiB" in usual.stderr
    expandable = run_python("-c", IN_PIECES, **card, **EXPANDABLE)
    assert expandable.returncode == 0, expandable.stderr


def test_a_training_with_expandable_segments_ends_in_the_same_bytes(chain, tmp_path):
    words = ["-m", "workflow_scripts.moe_sft", *chain.words("moe_sft"), *STEPS, "--out"]
    for name, environment in (("usual", {}), ("expandable", EXPANDABLE)):
        done = run_python(*words, tmp_path / name, **environment)
        assert done.returncode == 0, done.stderr
    usual, expandable = (tmp_path / name / "model.safetensors" for name in ("usual", "expandable"))
    assert usual.read_bytes() == expandable.read_bytes()


def test_conversions_take_no_memory_of_it(chain, tmp_path, call_step):
    """The steps that make a mixture and a dense model read files. They need no GPU memory."""
    chain["dense"]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for step in ("moe", "ffn", "weighted_init", "dense"):
        done = call_step(step, *chain.words(step), "--out", tmp_path / step)
        assert done.returncode == 0, done.stderr
    assert torch.cuda.max_memory_allocated() == before
