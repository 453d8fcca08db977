"""Less memory in training: the same result."""

import math

import pytest
import torch
from chains import Chain
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from xft.config.sections import MoeSftConfig
from xft.training.checkpoints import Checkpoints
from xft.training.trainer import Training, train

OPTIONS = {
    "max_steps": 4,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def mixture(tiny_llama, tmp_path_factory):
    """A mixture with routing noise and balance loss."""
    return Chain(tmp_path_factory.mktemp("memory"), base=tiny_llama)["moe"]


@pytest.fixture
def learn(mixture, tokenizer, tmp_path):
    """Callable (options): the metrics of a training, and the weights after it."""

    def run(**options):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(mixture)
        generator = torch.Generator().manual_seed(0)
        examples = []
        for number, length in enumerate((9, 17, 12, 7, 21, 14, 8, 19), 1):
            ids = torch.randint(3, 290, (length,), generator=generator).tolist()
            labels = [-100] * 4 + ids[4:]
            examples.append({"input_ids": ids, "labels": labels, "row": number})
        checkpoints = Checkpoints(tmp_path / "out", "a", math.inf)
        metrics = tmp_path / "metrics.jsonl"
        chosen = MoeSftConfig(**OPTIONS | options)
        train(Training(model, examples, tokenizer, chosen, 0, checkpoints, metrics_file=metrics))
        return metrics.read_text(), model.state_dict()

    return run


def test_activation_checkpointing_gives_the_same_bits(learn):
    """The noise of the second computation is that of the first; the balance loss counts once."""
    metrics, weights = learn()
    assert '"noise_scale"' in metrics
    other_metrics, other_weights = learn(activation_checkpointing=True)
    assert other_metrics == metrics
    for name, weight in weights.items():
        assert torch.equal(other_weights[name], weight), name


def peak_memory(model, ids) -> int:
    """The most bytes allocated at once in a forward and backward pass, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model(ids, labels=ids).loss.backward()
    now, peak = 0, 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def test_activation_checkpointing_needs_less_memory(mixture):
    """Apart from the logits. Routing that lived on would keep a whole layer, nearly 0.3."""
    model = AutoModelForCausalLM.from_pretrained(mixture).train()
    ids = torch.randint(3, 290, (4, 64))
    logits = 4 * ids.numel() * model.config.vocab_size
    peak_memory(model, ids)  # the gradients are there from now on
    plain = peak_memory(model, ids)
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert peak_memory(model, ids) - 3 * logits < 0.2 * (plain - 3 * logits)
