"""The number type in which a model generates: `evaluation.precision`."""

import shutil

import pytest
import torch
from mixtures import varied_mixture
from transformers import AutoModelForCausalLM

from xft.evaluation.generation import generate
from xft.evaluation.loading import computing_dtype, load_model
from xft.evaluation.prompts import TaskPrompt

DTYPES = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}
on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="auto is another type on a GPU")


def dtypes(model) -> set[torch.dtype]:
    return {weight.dtype for weight in model.parameters()}


@pytest.fixture
def stored_in_bf16(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "bf16")
    AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@on_cpu
@pytest.mark.parametrize("precision", DTYPES)
def test_a_model_has_the_type_that_was_asked_for(tiny_llama, stored_in_bf16, precision):
    for folder in (tiny_llama, stored_in_bf16):
        assert dtypes(load_model(folder, 1, precision)[0]) == {DTYPES[precision]}


def test_auto_is_the_stored_type_on_a_gpu():
    stored = torch.float16
    types = [computing_dtype(precision, stored, on_gpu=True) for precision in DTYPES]
    assert types == [stored, torch.float32, torch.bfloat16]
    types = [computing_dtype(precision, stored, on_gpu=False) for precision in DTYPES]
    assert types == list(DTYPES.values())


def test_a_mixture_generates_in_bf16(tiny_llama, tmp_path):
    varied_mixture(tiny_llama, tmp_path)
    model, tokenizer = load_model(tmp_path / "moe_sft", 1, "bf16")
    assert dtypes(model) == {torch.bfloat16}
    prompts = [TaskPrompt(f"Task/{i}", text, text, ("\x00never",)) for i, text in enumerate("ab")]

    completions = generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=2)

    assert [completion.finish for completion in completions] == ["length"] * 2
    ids = torch.tensor([prompts[0].encode(tokenizer)])
    exact = load_model(tmp_path / "moe_sft", 1, "fp32")[0]
    with torch.no_grad():
        logits, expected = model(ids).logits, exact(ids).logits
    assert logits.dtype == torch.bfloat16
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()
