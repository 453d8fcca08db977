"""The number type in which a model generates: `evaluation.precision`."""

import torch
from mixtures import varied_mixture

from xft.evaluation.generation import generate
from xft.evaluation.loading import computing_dtype, load_model
from xft.evaluation.prompts import TaskPrompt

DTYPES = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}


def dtypes(model) -> set[torch.dtype]:
    return {weight.dtype for weight in model.parameters()}


def test_a_model_has_the_type_that_was_asked_for(tiny_llama):
    """auto is the stored type on a GPU."""
    for on_gpu, auto in ((True, torch.float16), (False, torch.float32)):
        for precision, dtype in (DTYPES | {"auto": auto}).items():
            assert computing_dtype(precision, torch.float16, on_gpu) == dtype
    for precision in ("fp32", "bf16"):
        assert dtypes(load_model(tiny_llama, 1, precision)[0]) == {DTYPES[precision]}


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
