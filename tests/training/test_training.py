"""Training: the loss of a step and its parts, and what learns."""

import math
import re
from functools import partial

import pytest
import torch
from trainings import learn, lines_of, random_rows, train_model
from transformers import AutoModelForCausalLM, TrainerCallback

from xft.config.sections import MoeSftConfig

pytestmark = pytest.mark.numeric

FLAGS = ["--max-steps", 3, "--per-device-train-batch-size", 4, "--learning-rate", 0.01]
ROWS = random_rows([9, 17, 12, 7, 21, 14, 8, 19])


def tune(upcycled, data, out, *flags) -> list[float]:
    """The losses of a training."""
    words = ["--moe", upcycled, "--data", data, *FLAGS, *flags]
    return [line["loss"] for line in learn("moe_sft", out, *words)]


def test_activation_checkpointing_gives_the_same_bits(upcycled, tokenizer, tmp_path):
    """The noise of the second computation is that of the first; the balance loss counts once."""
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    options |= {"learning_rate": 1e-3, "max_steps": 3}
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(upcycled)
        chosen = MoeSftConfig(**options, activation_checkpointing=checkpointing)
        lines = train_model(model, ROWS, tokenizer, tmp_path / "out", chosen)
        found.append((lines, model.state_dict()))
    (metrics, weights), (other_metrics, other_weights) = found
    assert "noise_scale" in metrics[0] and other_metrics == metrics
    assert all(torch.equal(other_weights[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_a_key_that_decides_nothing_beside_another_one_changes_no_bit(
    upcycled, tokenizer, tmp_path, batching
):
    """With fewer and with more epochs than the steps take."""
    options = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "batching": batching}
    steps = len(ROWS) // 4 + 2
    found = []
    for epochs in (0.1, 1, 9):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(upcycled)
        chosen = MoeSftConfig(**options, max_steps=steps, num_train_epochs=epochs)
        assert chosen.idle == {"num_train_epochs": "max_steps"}
        lines = train_model(model, ROWS, tokenizer, tmp_path / "out", chosen)
        found.append((lines, model.state_dict()))
    (metrics, weights), *others = found
    assert len([line for line in metrics if "loss" in line]) == steps
    for other_metrics, other_weights in others:
        assert other_metrics == metrics
        assert all(torch.equal(other_weights[name], weight) for name, weight in weights.items())


def test_tuned_mixture_loads_and_has_learned(upcycled, data, tmp_path, capsys, impatient):
    """By a rate that is constant and falls in the last tenth."""
    out = tmp_path / "out"
    wsd = ["--lr-scheduler-type", "warmup_stable_decay", "--max-steps", 20, "--warmup-steps", 4]
    losses = tune(upcycled, data, out, *wsd)
    rates = [line["learning_rate"] for line in lines_of(out)]
    warm_up, decay = [0.0, 0.0025, 0.005, 0.0075], [0.01, 0.005]
    assert rates == pytest.approx(warm_up + [0.01] * 14 + decay)
    assert losses[-1] < losses[0]
    last = lines_of(out)[-1]
    for name in ("load", "importance"):  # two layers, of three routed experts each
        assert [sum(layer) for layer in last[name]] == pytest.approx([1, 1], abs=2e-4)
        assert [len(layer) for layer in last[name]] == [3, 3]
    assert all(0 < entropy <= round(math.log(3), 4) for entropy in last["entropy"])
    assert len(last["noise_scale"]) == 2
    assert all(0 < share < 1 for share in last["noise_changed"])
    changed = [share for line in lines_of(out)[-10:] for share in line["noise_changed"]]
    said = f"noise decided {sum(changed) / len(changed):.0%} of the routers' choices"
    shown = capsys.readouterr().err
    assert said in shown
    told = re.findall(r"train: (\d+)/20 .*, loss=([\d.]+)", shown)
    assert dict(told) == {f"{n}": f"{loss:.4f}" for n, loss in enumerate(losses, 1)}
    model = AutoModelForCausalLM.from_pretrained(out)
    before = AutoModelForCausalLM.from_pretrained(upcycled)
    assert model.config.to_dict() == before.config.to_dict()
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before.get_parameter(name)), name


@pytest.mark.parametrize("most", [None, 0.01])
def test_the_optimiser_gets_gradients_of_the_greatest_norm_at_most(
    upcycled, tokenizer, tmp_path, most
):
    """The norm that is logged is that before."""
    norms = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
            norms.append(torch.nn.utils.get_total_norm(gradients).item())

    model = AutoModelForCausalLM.from_pretrained(upcycled)
    options = MoeSftConfig(max_steps=3, per_device_train_batch_size=4, max_grad_norm=most)
    out = tmp_path / "out"
    lines = train_model(model, ROWS, tokenizer, out, options, callbacks=[Watch()])
    logged = [line["grad_norm"] for line in lines]
    assert min(logged) > 0.1
    assert norms == pytest.approx(logged if most is None else [most] * 3, rel=1e-3)


@pytest.mark.ci
@pytest.mark.needs("bitsandbytes")
def test_adamw_in_8_bits_learns_what_the_fused_one_learns(upcycled, data, tmp_path):
    tuned, rate = partial(tune, upcycled, data), ["--learning-rate", 1e-3]
    names = "adamw_torch_fused", "adamw_8bit"
    fused, other = (tuned(tmp_path / name, "--optim", name, *rate) for name in names)
    assert other == pytest.approx(fused, rel=1e-4) and other != fused  # 8 bits round
