"""What decides how far experts specialise, by closed forms of what one or a few steps do."""

import math
from collections.abc import Mapping

import pytest
import torch
from mixtures import random_mixture
from trainings import random_rows, train_model

from xft.common.errors import UserError
from xft.config.sections import MoeSftConfig
from xft.config.validation import complete

pytestmark = pytest.mark.numeric

ROWS = random_rows([9, 17, 12, 7], kinds=64)
RATE = 1e-3


@pytest.fixture
def learned(tokenizer, tmp_path):
    """Callable (backbone, options): the weights before and after, by name, and the metrics."""

    def learned(backbone: str = "llama", moe: Mapping = {}, **options):
        model = random_mixture(backbone, moe)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        options = {"max_steps": 1, "learning_rate": RATE} | options
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        lines = train_model(model, ROWS, tokenizer, out, MoeSftConfig(**options))
        return before, model.state_dict(), lines

    return learned


def test_routers_learn_at_a_rate_of_their_own(learned):
    """The first step of AdamW is proportional to the rate."""
    before, usual, _ = learned()
    _, after, _ = learned(router_learning_rate=4 * RATE)
    for name, value in before.items():
        step = usual[name] - value
        factor = 4 if ".router." in name else 1
        assert torch.allclose(after[name] - value, factor * step, rtol=1e-2, atol=1e-6), name


def test_noise_falls_linearly(learned):
    """Its projection starts at zero and hardly learns: the scale is softplus(0) + 0.01."""
    options = {"max_steps": 6, "learning_rate": 1e-7, "noise_steps": 4}
    _, _, lines = learned(moe={"router_noise": True}, **options)
    factors = [line["noise_scale"][0] / (math.log(2) + 0.01) for line in lines]
    assert factors == pytest.approx([1, 0.75, 0.5, 0.25, 1e-3, 1e-3], abs=3e-4)
    assert [line["noise_changed"][0] > 0 for line in lines] == [True] * 4 + [False] * 2


# The layers of the shared expert that are one weight of the routed experts.
SHARED = {
    "llama": {"gate_up_proj": ["gate_proj", "up_proj"], "down_proj": ["down_proj"]},
    "phi3": {"gate_up_proj": ["gate_up_proj"], "down_proj": ["down_proj"]},
    "starcoder2": {"up_proj": ["c_fc"], "down_proj": ["c_proj"]},  # with biases
}


@pytest.mark.parametrize("backbone", SHARED)
@pytest.mark.parametrize("has_shared", [True, False])
def test_experts_move_towards_their_mean(learned, backbone, has_shared):
    """By a tenth of the way, as the rate times the strength says, beside a usual step."""
    moe = {"shared_expert": has_shared}
    before, usual, _ = learned(backbone, moe)
    _, after, _ = learned(backbone, moe, expert_decay=0.1 / RATE)
    routed = [name for name in before if ".experts." in name]
    assert len(routed) == (8 if backbone == "starcoder2" else 4)
    for name in routed:
        block, _, weight = name.partition("experts.")
        kind = "bias" if weight.endswith("_bias") else "weight"
        layers = SHARED[backbone][weight.removesuffix("_bias")]
        names = [f"{block}shared_expert.{layer}.{kind}" for layer in layers] if has_shared else []
        shared = [torch.cat([before[name] for name in names])] if names else []
        mean = torch.stack([*before[name], *shared]).mean(0)
        moved = after[name] - usual[name]
        assert torch.allclose(moved, 0.1 * (mean - before[name]), rtol=1e-3, atol=1e-6), name
    assert all(torch.equal(after[name], usual[name]) for name in before if "expert" not in name)


def test_what_has_no_effect_is_refused():
    sharded = {"launch": "zero2", "processes": 2}
    for moe, moe_sft, message in (
        ({"router_noise": False}, {"noise_steps": 9}, "no effect without moe.router_noise"),
        ({"experts": "lora"}, {"expert_decay": 1.0}, "set moe.experts: full"),
        ({}, sharded | {"expert_decay": 1.0}, "expert_decay needs whole weights"),
        ({}, sharded | {"router_learning_rate": 1.0}, "router_learning_rate needs whole"),
    ):
        with pytest.raises(UserError, match=message):
            complete(
                {"base": {"model": "m"}, "data": {"train": "r"}, "moe": moe, "moe_sft": moe_sft}
            )
