"""Generation on the emulated GPU writes what it writes on the CPU."""

from pathlib import Path

import pytest
import torch
from evaluations import completions
from gpu_and_cpu import GPU, on_both
from transformers import AutoModelForCausalLM

from xft.evaluation.generation import Sampling
from xft.evaluation.model_loading import load_model
from xft.evaluation.prompts import TaskPrompt

TEXTS = ["def add(a, b):\n", "x", "def multiply(first, second):\n    return", "é = 'ü'\n"]
LIMITS = {"max_new_tokens": 24, "batch_size": 3}
WAYS = {
    "greedy": {},
    "healed": {"token_healing": True},
    "sampled": {"sampling": Sampling(0.8, 0.95, seeds=[4, 5, 6, 7])},
}


@pytest.fixture(scope="module")
def lively(tiny_llama, tokenizer, tmp_path_factory) -> dict[torch.dtype, Path]:
    """A model with larger random weights, so that it varies, stored in fp32 and in bf16."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    folders = {}
    for dtype in (torch.float32, torch.bfloat16):
        folders[dtype] = tmp_path_factory.mktemp("lively") / "model"
        model.to(dtype).save_pretrained(folders[dtype])
        tokenizer.save_pretrained(folders[dtype])
    return folders


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_the_cpu(way, lively):
    """In fp32, also if they are drawn: the generators are the CPU's."""
    prompts = [TaskPrompt(f"Task/{n}", text, text, ("\0",)) for n, text in enumerate(TEXTS)]

    def write(_) -> list:
        model, tokenizer = load_model(lively[torch.float32], threads=1)
        return completions(model, tokenizer, prompts, **LIMITS, **WAYS[way])

    found, expected = on_both(write)
    assert found == expected and len({one.text for one in found}) > 1


def test_a_model_is_loaded_in_its_stored_dtype(lively):
    for dtype, folder in lively.items():
        model, _ = load_model(folder, threads=1)
        assert {(one.device, one.dtype) for one in model.parameters()} == {(GPU, dtype)}
