"""transformers replaces layers by kernels that it fetches from the hub, unless told not to."""

import copy
import os

import pytest
import torch
from chains import Chain
from transformers import AutoModelForCausalLM
from transformers.integrations import hub_kernels

import xft
from xft.evaluation.model_loading import load_model
from xft.modeling.whole_models import check_fit, load_whole


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """What transformers asks of the package kernels, which is refused."""
    asked = []

    def refuse(name):
        def call(*arguments, **options):
            asked.append(name)
            raise RuntimeError(f"{name} was called")

        return call

    monkeypatch.setenv("USE_HUB_KERNELS", "YES")
    for name in ("_kernels_kernelize", "get_kernel_hub"):
        monkeypatch.setattr(hub_kernels, name, refuse(name))
    return asked


def test_transformers_itself_asks_for_kernels(asked, tiny_llama):
    """Otherwise the next tests would show nothing."""
    with pytest.raises(RuntimeError, match="was called"):
        AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert asked


def test_no_model_is_loaded_with_kernels(asked, tiny_llama):
    check_fit(tiny_llama)
    generates, _ = load_model(tiny_llama, threads=1)
    base = load_whole(AutoModelForCausalLM, tiny_llama, dtype=torch.float32)
    mixture = xft.upcycle(copy.deepcopy(base), num_experts=3, num_experts_per_tok=2)
    merged = xft.Mixing(mixture).model
    for model in (generates, base, mixture, merged):
        assert not model.use_kernels
        model.train()  # transformers would choose the kernels of trainings
        model.eval()
    assert asked == []


@pytest.mark.parametrize("step", ["moe_sft", "weighted_trained"])
def test_no_step_trains_with_kernels(asked, chain, call_step, tmp_path, step):
    """Whatever the environment says, because no digest names kernels."""
    words = Chain(tmp_path, {step: ["--max-steps", 1]}, **chain._made).words(step)
    done = call_step(step, *words, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert os.environ["USE_HUB_KERNELS"] == "NO"  # for models that a user's code loads
    assert asked == []
