"""torch.compile of an upcycled model: the dense-shaped parts are compiled, routing is not."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

import xft  # noqa: F401
from workflow_scripts import moe

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("experts", ["full", "lora"])
def test_a_compiled_mixture_computes_and_trains_the_same(tiny_llama, tmp_path, experts):
    moe.main(["--base", str(tiny_llama), "--experts", experts, "--out", str(tmp_path / "moe")])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "moe").eval()
    compiled = torch.compile(copy.deepcopy(plain), backend="aot_eager")
    ids = torch.randint(3, 290, (2, 24))
    for model in (plain, compiled):
        model(ids, labels=ids).loss.backward()
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids).logits, plain(ids).logits, atol=1e-5, rtol=1e-5)
    ours = dict(compiled._orig_mod.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, atol=1e-5, rtol=1e-4)
