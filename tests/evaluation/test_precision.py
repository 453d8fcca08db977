"""The number type in which a model generates: `evaluation.precision`."""

import json
import shutil

import pytest
import torch
from mixtures import varied_mixture
from problem_files import three_problems, write_problems
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from workflow_scripts import eval as step
from xft.common.errors import UserError
from xft.config.sections import GenerationConfig
from xft.config.validation import validated
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


@on_cpu
@pytest.mark.parametrize("precision", DTYPES)
def test_the_result_says_in_which_type_the_model_wrote(
    tiny_llama, tmp_path, monkeypatch, bubblewrap, precision
):
    seen = set()
    forward = LlamaForCausalLM.forward
    monkeypatch.setattr(
        LlamaForCausalLM,
        "forward",
        lambda self, *args, **more: seen.update(dtypes(self)) or forward(self, *args, **more),
    )
    problems = write_problems(tmp_path / "sums.jsonl", three_problems())
    flags = ["--prompt", "completion", "--max-new-tokens", "4", "--precision", precision]
    paths = ["--model", str(tiny_llama), "--dataset", str(problems)]
    step.main([*paths, "--out", str(tmp_path / "r.json"), *flags])

    settings = json.loads((tmp_path / "r.json").read_text())["settings"]
    assert seen == {DTYPES[precision]}
    assert settings["precision"] == precision
    assert settings["dtype"] == str(DTYPES[precision]).removeprefix("torch.")


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


def test_another_precision_is_refused():
    message = 'precision = "fp16": must be one of auto, fp32, bf16'
    with pytest.raises(UserError, match=message):
        validated(GenerationConfig, {"precision": "fp16"}, "config.yaml")
