"""The balance loss over a global batch: its value, its gradient, and the noise of its passes."""

import pytest
import torch
from chains import Chain
from mixtures import squared_variation
from trainings import random_rows, train_model
from transformers import AutoModelForCausalLM

from xft.config.sections import MoeSftConfig
from xft.training.balance import GlobalBalance

pytestmark = pytest.mark.numeric

COEFFICIENT = 0.5  # large, so that its gradient matters
OPTIONS = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 3,
    "learning_rate": 1e-3,
    "balance_loss_batch": "global",
}


@pytest.fixture
def model(tiny_llama, tmp_path):
    """A mixture whose experts differ, in training mode."""
    chain = Chain(tmp_path, base=tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(chain["moe"]).train()
    model.config.balance_loss_coef = COEFFICIENT
    generator = torch.Generator().manual_seed(1)
    for block in model.moe_blocks:
        for weight in [*block.experts.parameters(), *block.router.parameters()]:
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def test_parts_have_the_gradient_of_the_whole(model):
    """Against the formula, over all rows in one forward pass. The noise has a scale, but is 0."""
    for block in model.moe_blocks:
        block.router.sample_noise = torch.zeros_like
    length = 21
    ids = torch.randint(3, 290, (6, length), generator=torch.Generator().manual_seed(2))
    whole = model(ids, output_router_logits=True)
    entropy = torch.nn.functional.cross_entropy(
        whole.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    )
    balance = COEFFICIENT * sum(
        squared_variation(routing.importance) + squared_variation(routing.load)
        for routing in whole.routing
    )
    (entropy + balance).backward()
    expected = take_gradient(model)

    counts = GlobalBalance(model, accumulates=True)
    parts = [ids[:1], ids[1:4], ids[4:]]
    with torch.no_grad(), counts.ahead():
        for part in parts:
            model(part, output_router_logits=True, logits_to_keep=1)
    total = 0.0
    for part in parts:
        loss = model(part, labels=part, num_items_in_batch=6 * (length - 1)).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx((entropy + balance).item(), rel=1e-6)
    for name, gradient in take_gradient(model).items():
        error = torch.linalg.vector_norm(gradient - expected[name])
        assert error <= 1e-5 * torch.linalg.vector_norm(expected[name]), name

    model.complete_counts = None
    for part in parts:
        model(part, labels=part, num_items_in_batch=6 * (length - 1)).loss.backward()
    own = take_gradient(model)["model.embed_tokens.weight"]
    expected = expected["model.embed_tokens.weight"]
    assert torch.linalg.vector_norm(own - expected) > 1e-2 * torch.linalg.vector_norm(expected)


def take_gradient(model) -> dict[str, torch.Tensor]:
    gradient = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return gradient


def test_evaluation_has_a_balance_loss_of_its_own(model):
    ids = torch.randint(3, 290, (2, 9), generator=torch.Generator().manual_seed(2))
    expected = model.eval()(ids, labels=ids).loss
    GlobalBalance(model, accumulates=True)
    assert model(ids, labels=ids).loss == expected


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_the_pass_ahead_sees_what_the_passes_that_follow_see(
    model, tokenizer, tmp_path, monkeypatch, batching
):
    """Which have noise, and leave the random numbers as if there had been no pass ahead."""
    seen = []
    complete = GlobalBalance.__call__

    def note(self, counts):
        completed = complete(self, counts)
        seen.append((counts.detach(), completed.detach()))
        return completed

    monkeypatch.setattr(GlobalBalance, "__call__", note)
    options = MoeSftConfig(**OPTIONS | {"batching": batching})
    rows = random_rows([8 + 5 * number % 17 for number in range(12)], prompt=3)
    train_model(model, rows, tokenizer, tmp_path / "out", options)
    assert len(seen) == 2 * (3 + 3)
    for step in (seen[:6], seen[6:]):
        total = sum(own for own, _ in step[3:])
        for (ahead, _), (own, completed) in zip(step[:3], step[3:], strict=True):
            assert torch.equal(ahead, own)
            torch.testing.assert_close(completed, total)
