"""Too little memory on a GPU: real errors of torch's allocator, and what the user reads."""

import gc
from collections.abc import Iterator

import pytest
import torch
from problem_files import three_problems, write_problems

MIB = 2**20
STEPS = ["--max-steps", 1, "--per-device-train-batch-size", 4]
SECTIONS = {"moe_sft": "moe_sft", "weighted_trained": "mixing"}


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


def check_told(done, step: str, *advice: str) -> None:
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{step}: error: the memory of the GPU is full. " in done.stderr
    assert "Tried to allocate" in done.stderr
    for words in advice:
        assert words in done.stderr


@pytest.mark.parametrize("step", SECTIONS)
def test_a_training_names_the_keys_that_save_memory(
    step, chain, data, tmp_path, call_step, full_gpu
):
    done = call_step(step, *chain.words(step), *STEPS, "--out", tmp_path / step)
    keys = [f"{SECTIONS[step]}.{name}" for name in ("per_device_train_batch_size", "precision")]
    check_told(done, step, *keys, "xft plan --config FILE --details")
    assert not (tmp_path / step).exists()


def test_an_evaluation_names_its_batch_size(tiny_llama, tmp_path, call_step, bubblewrap, full_gpu):
    problems = write_problems(tmp_path / "sums.jsonl", three_problems())
    out = tmp_path / "result.json"
    words = ["--model", tiny_llama, "--dataset", problems, "--prompt", "completion", "--out", out]
    check_told(call_step("eval", *words, "--max-new-tokens", 64), "eval", "evaluation.batch_size")
    assert not out.exists()
