"""Validation losses, the weights that are kept, early stop: also where a training is cut off."""

import math
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from chains import Chain
from mixtures import mixing_of
from safetensors.torch import load_file, save_file
from trainings import random_rows, stop_in, stopped_in, train_model
from transformers import AutoModelForCausalLM

from xft.common.errors import UserError
from xft.config.sections import MoeSftConfig
from xft.config.training import MixingTraining
from xft.training import features
from xft.training.at_end import VALIDATION_LOSS, change_at_end
from xft.training.features import SaveCallback, StopRequest
from xft.training.losses import validations_since_best
from xft.training.metrics import ProgressCallback
from xft.training.saving import Checkpoints

pytestmark = pytest.mark.numeric

LENGTH = 8
# Learns fast on few rows, so that the validation loss rises again.
OPTIONS = {"max_steps": LENGTH, "per_device_train_batch_size": 3, "eval_steps": 1}
OPTIONS["lr_scheduler_type"] = "constant_with_warmup"
LAMBDA = {"weighted_init": ["--lam", 0.6]}
# Tokens of few kinds.
LENGTHS = [9 + 5 * number % 13 for number in range(7)]
TRAINING, VALIDATION = random_rows(LENGTHS[:6], kinds=40), random_rows(LENGTHS, seed=1, kinds=40)


@pytest.fixture
def learn(chain, tokenizer, tmp_path):
    """Callable (name, options): train. The weights that come out, and the lines of the metrics."""

    def run(name: str, validation=VALIDATION, mixing=False, **options):
        torch.manual_seed(0)
        given = {part: chain[part] for part in ("moe_sft", "ffn")}
        start = Chain(tmp_path / f"start of {name}", LAMBDA, **given)
        mixture = mixing_of(start) if mixing else None
        model = mixture.model if mixing else AutoModelForCausalLM.from_pretrained(chain["moe_sft"])
        kind, rate = (MixingTraining, 0.3) if mixing else (MoeSftConfig, 0.03)
        chosen = kind(learning_rate=rate, **OPTIONS | options)
        given = {"validation": validation, "mixing": mixture}
        lines = train_model(model, TRAINING, tokenizer, tmp_path / name, chosen, **given)
        return (mixture.logits if mixing else model).state_dict(), lines, model

    return run


def validation_losses(lines: list[dict]) -> dict[int, float]:
    """Of each step that was validated."""
    found = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    assert all(set(line) == {"step", "validation_loss"} for line in lines if "loss" not in line)
    return found


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


@pytest.mark.parametrize("mixing", [False, True], ids=["moe_sft", "weighted_trained"])
def test_the_best_weights_are_kept_and_validating_changes_nothing(learn, mixing):
    plain, plain_lines, _ = learn("plain", validation=(), mixing=mixing)
    best, lines, _ = learn("best", mixing=mixing, keep="best")
    assert [line for line in lines if "loss" in line] == plain_lines
    losses = validation_losses(lines)
    step = min(losses, key=losses.get)
    assert step < LENGTH
    there, *_ = learn("there", mixing=mixing, max_steps=step)
    assert same(best, there) and not same(best, plain)


def test_early_stop_comes_after_so_many_losses_that_are_no_lower(learn, monkeypatch):
    """Also after a cut, and if a SIGTERM comes in that very step."""
    _, whole, _ = learn("whole")
    losses = validation_losses(whole)
    best = min(losses, key=losses.get)
    assert best <= LENGTH - 3
    settings = {"keep": "best", "early_stopping_patience": 2}
    expected, lines, _ = learn("stopped", **settings)
    assert lines == whole[: 2 * (best + 2)]
    last = lines[-1]["step"]
    with stopped_in(last - 1):
        learn("out", **settings)
    stop_in(monkeypatch, last)
    weights, again, _ = learn("out", **settings)
    assert again == lines and same(weights, expected)


def test_a_training_says_that_its_loss_still_falls(learn, capsys):
    for steps, falls in ((4, True), (LENGTH, False)):
        learn(f"{steps} steps", max_steps=steps)
        assert ("the loss still fell in the last quarter" in capsys.readouterr().err) == falls
    with stopped_in(4):  # the same losses, but the rest of the steps follows
        learn("cut off")
    assert "still fell" not in capsys.readouterr().err


BATCHES = [4.0] * 30 + [3.0] * 10  # a quarter less in the last quarter
HALVED = [8.0, 8.0, 2.0, 1.0]  # in the last of four validations
CHANGES = {
    "one pass": (BATCHES, 1, (), -0.25),
    "too few batches": (BATCHES[1:], 1, (), None),
    "the last row came twice": (BATCHES, 1.01, (), None),
    "every row came often": (BATCHES, 9, (), None),
    "validations": (BATCHES, 1, HALVED, -0.5),
    "validations, and rows that came twice": (BATCHES, 2, HALVED, -0.5),
    "too few validations": (BATCHES, 1, HALVED[1:], -0.25),
    "too few validations, and rows that came twice": (BATCHES, 2, HALVED[1:], None),
}


@pytest.mark.parametrize(
    ("losses", "epochs", "validations", "change"), CHANGES.values(), ids=CHANGES
)
def test_losses_of_batches_say_how_it_ends_only_while_no_row_came_twice(
    losses, epochs, validations, change
):
    """Those of rows that a model has seen fall without end."""
    steps = enumerate(losses, 1)
    history = [{"loss": loss, "epoch": epochs * step / len(losses)} for step, loss in steps]
    history += [{VALIDATION_LOSS: loss, "epoch": epochs} for loss in validations]
    assert change_at_end(history) == change


# The least pause between two checkpoints, and the seconds that saving one took.
PAUSES = {"fast": (600, 1, 600), "slow": (600, 31, 620), "slow and often": (0, 2, 40)}


@pytest.mark.parametrize(("seconds", "took", "pause"), PAUSES.values(), ids=PAUSES)
def test_checkpoints_are_an_interval_apart_and_take_a_twentieth_of_the_time(
    seconds, took, pause, monkeypatch
):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(features, "time", SimpleNamespace(monotonic=lambda: clock.now))
    callback = SaveCallback(seconds, StopRequest())
    state = SimpleNamespace(global_step=1, max_steps=9)

    def is_saved_at(now: float) -> bool:
        control = SimpleNamespace()
        clock.now = now
        callback.on_step_end(SimpleNamespace(device="cpu"), state, control)
        return control.should_save

    callback.on_train_begin(None, state, None)
    assert not is_saved_at(1000 + seconds - 1)
    assert is_saved_at(1000 + seconds)
    clock.now += took
    callback.on_save(None, state, None)
    saved = clock.now
    assert not is_saved_at(saved + pause - 1)
    assert is_saved_at(saved + pause)


def test_of_equal_losses_the_first_is_the_best():
    history = [{"loss": 1.0}, *({VALIDATION_LOSS: loss} for loss in (2.0, 1.0, 1.0, 3.0))]
    assert validations_since_best(history) == 2


def test_the_best_weights_come_back_with_their_checkpoint(tmp_path):
    """Checkpoints of steps 1 and 2 have other best weights, and there are still others since."""
    checkpoints = Checkpoints(tmp_path / "out", "a", math.inf)
    with suppress(SystemExit), checkpoints.claimed():
        for step in (1, 2, 3):
            new = checkpoints.folder / "new"
            save_file({"step": torch.tensor(step)}, new)
            new.replace(checkpoints.best)
            if step < 3:
                (checkpoints.folder / f"checkpoint-{step}").mkdir()
                checkpoints.seal(step)
        raise SystemExit
    assert load_file(checkpoints.best)["step"] == 3
    with checkpoints.claimed():
        assert checkpoints.newest().name == "checkpoint-2"
        assert load_file(checkpoints.best)["step"] == 2


def test_a_loss_that_is_not_finite_stops_the_training(learn, monkeypatch):
    def on_step_end(self, args, state, control, model, **kwargs):
        for parameter in model.parameters():
            parameter.data.fill_(float("nan"))

    monkeypatch.setattr(ProgressCallback, "on_step_end", on_step_end)
    with pytest.raises(UserError, match=r"step 1: validation loss nan\. Lower"):
        learn("out")


def test_a_validation_needs_rows():
    options = MixingTraining(eval_steps=2)
    assert options.fault_of_validation(0).startswith("eval_steps = 2: there are no validation rows")
    assert options.fault_of_validation(5) is None
    assert MixingTraining().fault_of_validation(0) is None
