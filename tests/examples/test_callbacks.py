"""The callbacks of examples/callbacks, by closed forms of what one or a few steps do."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from backbones import random_dense
from chains import Chain
from mixtures import random_mixture
from trainings import random_rows, train_model
from transformers import AutoModelForCausalLM

from xft.common.user_code import UserCode
from xft.config.sections import MoeSftConfig
from xft.modeling.router import squared_variation
from xft.training.batches import padded
from xft.training.session import made_callback

pytestmark = pytest.mark.numeric

EXAMPLES = Path(__file__).parents[2] / "examples" / "callbacks"
ROWS = random_rows([9, 17, 12, 7], kinds=64)
RATE = 1e-3


def example(text: str):
    return made_callback(UserCode.of(f"{EXAMPLES}/{text}"))


@pytest.fixture
def learned(tokenizer, tmp_path):
    """Callable (callback, backbone, moe, options): the weights before and after, the metrics."""

    def learned(callback: str = "", backbone: str = "llama", moe: Mapping = {}, **options):
        model = random_mixture(backbone, moe)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        options = MoeSftConfig(**{"max_steps": 1, "learning_rate": RATE} | options)
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        callbacks = [example(callback)] if callback else []
        lines = train_model(model, ROWS, tokenizer, out, options, callbacks=callbacks)
        return before, model.state_dict(), lines

    return learned


def test_routers_learn_at_a_rate_of_their_own(learned):
    """The first step of AdamW is proportional to the rate."""
    before, usual, _ = learned()
    _, after, _ = learned(f"router_rate.py:RouterRate(learning_rate={4 * RATE})")
    for name, value in before.items():
        step = usual[name] - value
        factor = 4 if ".router." in name else 1
        assert torch.allclose(after[name] - value, factor * step, rtol=1e-2, atol=1e-6), name


def test_noise_falls_linearly(learned):
    """Its projection starts at zero and hardly learns: the scale is softplus(0) + 0.01."""
    noise = {"moe": {"router_noise": True}, "max_steps": 6, "learning_rate": 1e-7}
    _, _, lines = learned("fading_noise.py:FadingNoise(steps=4)", **noise)
    factors = [line["noise_scale"][0] / (math.log(2) + 0.01) for line in lines]
    assert factors == pytest.approx([1, 0.75, 0.5, 0.25, 1e-3, 1e-3], abs=3e-4)
    assert [line["noise_changed"][0] > 0 for line in lines] == [True] * 4 + [False] * 2


# The layers of the shared expert that are one weight of the routed experts.
SHARED = {
    "llama": {"gate_up_proj": ["gate_proj", "up_proj"], "down_proj": ["down_proj"]},
    "phi3": {"gate_up_proj": ["gate_up_proj"], "down_proj": ["down_proj"]},
    "starcoder2": {"up_proj": ["c_fc"], "down_proj": ["c_proj"]},  # with biases
}


def stacks(values: Mapping, backbone: str = "llama") -> dict[str, torch.Tensor]:
    """Copies of a model's weights by name: those of a layer's experts in stacks, others alone."""
    found = {name: value[None].clone() for name, value in values.items() if "expert" not in name}
    for name in (name for name in values if ".experts." in name):
        block, _, weight = name.partition("experts.")
        kind = "bias" if weight.endswith("_bias") else "weight"
        layers = SHARED[backbone][weight.removesuffix("_bias")]
        shared = [values.get(f"{block}shared_expert.{layer}.{kind}") for layer in layers]
        shared = [] if shared[0] is None else [torch.cat(shared)]
        found[name] = torch.stack([*values[name], *shared])
    return found


@pytest.mark.parametrize("backbone", SHARED)
@pytest.mark.parametrize("has_shared", [True, False])
def test_experts_move_towards_their_mean(learned, backbone, has_shared):
    """By a tenth of the way, as the rate times the strength says, beside a usual step."""
    moe = {"shared_expert": has_shared}
    before, usual, _ = learned("", backbone, moe)
    text = f"expert_decay.py:ExpertDecay(strength={0.1 / RATE})"
    _, after, _ = learned(text, backbone, moe)
    experts = {name: x for name, x in stacks(before, backbone).items() if ".experts." in name}
    assert len(experts) == (8 if backbone == "starcoder2" else 4)
    for name, stack in experts.items():
        moved, way = after[name] - usual[name], stack.mean(0) - before[name]
        assert torch.allclose(moved, 0.1 * way, rtol=1e-3, atol=1e-6), name
    assert all(torch.equal(after[name], usual[name]) for name in before if "expert" not in name)


def stacked(model) -> list[torch.Tensor]:
    return list(stacks(model.state_dict()).values())


def end_step(callback, model, step: int) -> None:
    callback.on_step_end(SimpleNamespace(seed=1), SimpleNamespace(global_step=step), None, model)


@pytest.mark.parametrize("make", [random_mixture, random_dense])
def test_outer_steps_are_those_of_sgd(make):
    """With Nesterov momentum, on the experts' mean, in each second step."""
    model, callback = make("llama"), example("outer_steps.py:OuterSteps(every=2)")
    callback.on_train_begin(None, None, None, model)
    theta = [torch.nn.Parameter(stack.mean(0)) for stack in stacked(model)]
    outer = torch.optim.SGD(theta, lr=0.7, momentum=0.9, nesterov=True)
    for step in range(1, 7):
        for weight in model.parameters():
            weight.data += 0.1 * torch.randn(weight.shape)
        expected = learned = stacked(model)
        end_step(callback, model, step)
        if step % 2 == 0:
            for weight, stack in zip(theta, learned, strict=True):
                weight.grad = weight.detach() - stack.mean(0)
            outer.step()
            expected = theta
        for weight, stack in zip(expected, stacked(model), strict=True):
            assert torch.allclose(stack, weight.expand_as(stack), atol=1e-5)


@pytest.mark.parametrize("has_shared", [True, False])
def test_an_expert_at_random_computes_a_token_and_moves_towards_the_mean(has_shared):
    model = random_mixture("llama", {"shared_expert": has_shared})
    callback = example("random_routing.py:RandomRouting(averaging=0.25)")
    router, tokens = model.moe_blocks[0].router, torch.randn(4000, 32)
    usual, learned = router.eval()(tokens), stacked(model)
    callback.on_train_begin(None, None, None, model)
    assert torch.equal(router(tokens).weights, usual.weights)
    routing = router.train()(tokens)
    _, weights = routing.spread()
    assert torch.equal(weights.sort().values, torch.tensor([0.0, 0, 0, 1]).expand(4000, 4))
    assert torch.allclose(weights.mean(0), torch.tensor(0.25), atol=0.03)
    assert torch.equal(routing.load, weights.sum(0)[int(has_shared) :])
    end_step(callback, model, 1)
    for before, after in zip(learned, stacked(model), strict=True):
        assert torch.allclose(after, 0.75 * before + 0.25 * before.mean(0), atol=1e-6)


def test_shuffling_permutes_a_share_of_the_coordinates():
    """By the seed and the step. A permutation of 4 leaves all in place in one of 24 cases."""

    def shuffled(step: int, share: float = 0.25) -> torch.Tensor:
        model = random_mixture("llama")
        end_step(example(f"shuffling.py:Shuffling(share={share})"), model, step)
        return torch.cat([stack.flatten(1) for stack in stacked(model) if len(stack) > 1], 1)

    before, first = shuffled(1, share=0), shuffled(1)
    assert torch.equal(before.sort(0).values, first.sort(0).values)
    moved = (before != first).any(0)
    assert moved.float().mean() == pytest.approx(0.25 * 23 / 24, abs=0.02)
    assert torch.equal(first, shuffled(1))
    assert not torch.equal(moved, (before != shuffled(2)).any(0))


def test_dropout_takes_outputs_of_the_mlp_in_training():
    model, inputs = random_dense("llama"), torch.randn(200, 32)
    mlp = model.model.layers[0].mlp
    whole = mlp(inputs)
    example("dropout.py:Dropout(share=0.25)").on_train_begin(None, None, None, model)
    assert torch.equal(mlp.eval()(inputs), whole)
    left = mlp.train()(inputs)
    assert (left == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.allclose(left, torch.where(left == 0, 0, whole / 0.75))


COEFFICIENT = 0.5  # large, so that its gradient matters


@pytest.mark.parametrize("batching", ["padded", "packed"])
@pytest.mark.parametrize("noise", [0, 1])
def test_parts_have_the_whole_balance(
    tiny_llama, tokenizer, tmp_path, monkeypatch, batching, noise
):
    """Their gradient is the formula's over all rows in one pass, without noise. With it the pass
    ahead sees what the passes that follow see.
    """
    model = AutoModelForCausalLM.from_pretrained(Chain(tmp_path, base=tiny_llama)["moe"])
    model.config.balance_loss_coef = COEFFICIENT
    generator = torch.Generator().manual_seed(1)
    for block in model.moe_blocks:
        for weight in [*block.experts.parameters(), *block.router.parameters()]:
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
        block.router.noise_factor = noise or 1e-9
    rows = random_rows([8 + 5 * number % 17 for number in range(6)], prompt=3)
    expected = whole_gradient(model, padded(tokenizer)(rows))
    callback, seen, found = example("global_balance.py:GlobalBalance"), [], {}
    balance = type(callback).balance_loss

    def note(self, routings):
        seen.append(torch.stack([routing.counts.detach() for routing in routings]))
        return balance(self, routings)

    def take(self, args, state, control, model=None, **kwargs):
        found.update({name: value.grad.clone() for name, value in model.named_parameters()})

    monkeypatch.setattr(type(callback), "balance_loss", note)
    monkeypatch.setattr(type(callback), "on_pre_optimizer_step", take, raising=False)
    options = {"max_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    options = MoeSftConfig(**options, batching=batching)
    train_model(model, rows, tokenizer, tmp_path / "out", options, callbacks=[callback])
    assert len(seen) == 3 + 3
    assert all(torch.equal(*pair) for pair in zip(seen[:3], seen[3:], strict=True))
    for name, gradient in found.items() if not noise else ():
        error = torch.linalg.vector_norm(gradient - expected[name])
        assert error <= 2e-5 * torch.linalg.vector_norm(expected[name]) + 1e-9, name


def whole_gradient(model, batch: dict) -> dict[str, torch.Tensor]:
    """Of the cross-entropy and the balance loss of a batch."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    whole = model.train()(**inputs, output_router_logits=True)
    labels = batch["labels"][:, 1:].flatten()
    loss = torch.nn.functional.cross_entropy(whole.logits[:, :-1].flatten(0, 1), labels)
    for routing in whole.routing:
        loss = loss + COEFFICIENT * squared_variation(routing.counts).sum()
    loss.backward()
    gradient = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return gradient
