"""ExFusion: the start is the base, and what is learned is what the plain formula learns."""

from functools import partial

import pytest
import torch
from backbones import FORMS, random_dense
from plain_losses import RATE, STEPS, encoded, plain_loss
from torch.func import functional_call
from trainings import learn
from transformers import AutoModelForCausalLM

from xft.checkpoints.reader import Checkpoint
from xft.config.sections import ExfusionConfig
from xft.training.fusion import EXPERTS, LOGITS, Fusion

pytestmark = pytest.mark.numeric

FLAGS = ["--max-steps", STEPS, "--learning-rate", RATE, "--per-device-train-batch-size", 12]
FLAGS += ["--lr-scheduler-type", "constant_with_warmup", "--optim", "adamw_torch"]
SEED = 42


def fused_experts(model, **options) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By layer: the logits and the experts with which the training of a model starts."""
    Fusion(model, ExfusionConfig(**options), SEED)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = [name.removesuffix(f".{EXPERTS}") for name in parameters if name.endswith(EXPERTS)]
    return {
        name: tuple(parameters[f"{name}.{part}"] for part in (LOGITS, EXPERTS)) for name in names
    }


@pytest.mark.parametrize(
    ("form", "options", "spread"),
    [("llama", {"init": "drop"}, 1.0), *((form, {"init_noise": 0.1}, 0.1) for form in FORMS)],
)
def test_the_start_is_the_base(form, options, spread):
    """And 4 experts differ from it by 3/4 of the variance of `init` (half the neurons: 2 / 2)."""
    model, ids = random_dense(form), torch.arange(3, 40)[None]
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    before = model(ids).logits
    experts = fused_experts(model, fused_experts=4, **options)
    torch.testing.assert_close(model(ids).logits, before, rtol=1e-4, atol=1e-4)
    assert len(experts) == sum(".mlp." in name and "weight" in name for name in weights)
    for name, (logits, values) in experts.items():
        base = weights[f"{name}.weight"]
        assert not logits.any()
        torch.testing.assert_close(values.mean(0), base)
        actual = ((values - base).std() / base.std()).item()
        assert actual == pytest.approx(spread * 0.75**0.5, rel=0.2)


def test_experts_and_their_weights_learn_as_by_the_plain_formula(tiny_llama, data, tmp_path):
    """The formula: functional_call with W = sum_i softmax(a)_i W_i, and AdamW of torch."""
    flags = ["--fused-experts", 3, "--init-noise", 0.5, *FLAGS]
    learn("exfusion", tmp_path / "out", "--base", tiny_llama, "--data", data, *flags)
    load = partial(AutoModelForCausalLM.from_pretrained, tiny_llama)
    experts = fused_experts(load(), fused_experts=3, init_noise=0.5)
    model = load()
    others = {
        name: value
        for name, value in model.named_parameters()
        if name.removesuffix(".weight") not in experts
    }
    learned = {tensor: None for pair in experts.values() for tensor in pair}  # logits once
    optimizer = torch.optim.AdamW([*others.values(), *learned], RATE, weight_decay=0)

    def weights() -> dict[str, torch.Tensor]:
        return others | {
            f"{name}.weight": sum(s * w for s, w in zip(logits.softmax(0), values, strict=True))
            for name, (logits, values) in experts.items()
        }

    for _ in range(STEPS):
        fused = weights()
        loss = plain_loss(
            lambda ids, fused=fused: functional_call(model, fused, ids), encoded(tiny_llama)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after, before = Checkpoint(tmp_path / "out"), Checkpoint(tiny_llama)
    assert after.config == before.config
    assert after.names == before.names
    assert all(logits.abs().max() > RATE for logits, _ in experts.values())
    for name, expected in weights().items():
        change = expected - before.get(name)
        difference = torch.linalg.vector_norm(after.get(name) - expected)
        assert difference < 0.01 * torch.linalg.vector_norm(change), name
