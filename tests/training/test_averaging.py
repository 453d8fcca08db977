"""The moving average of the weights of a training, against the weights after each step."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from chains import Chain, run_here
from trainings import learn, lines_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from workflow_scripts import validation_loss
from xft.evaluation.model_loading import load_model
from xft.training.metrics import ProgressCallback

STEPS = 8
FLAGS = ["--max-steps", STEPS, "--per-device-train-batch-size", 4, "--learning-rate", 0.01]
DECAY = 0.7
EMA = ["--ema-decay", DECAY]


def follow(monkeypatch, step: str, out: Path, *words) -> tuple[dict, list[dict]]:
    """Train. The weights of the artifact, and those after each step."""
    path = []

    def on_optimizer_step(self, args, state, control, model, **kwargs):
        path.append({key: value.clone() for key, value in model.state_dict().items()})

    monkeypatch.setattr(ProgressCallback, "on_optimizer_step", on_optimizer_step)
    learn(step, out, *words, *FLAGS)
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert len(path) == STEPS
    return model.state_dict(), path


def moving_average(path: list[dict], name: str) -> torch.Tensor:
    first, *others = (weights[name].double() for weights in path)
    for weights in others:
        first = DECAY * first + (1 - DECAY) * weights
    return first


@pytest.mark.parametrize(("step", "precision"), [("moe_sft", "auto"), ("sft", "bf16_pure")])
def test_the_artifact_is_the_moving_average(monkeypatch, chain, tmp_path, step, precision):
    """Which changes no step of the training."""
    words = [*chain.words(step), "--precision", precision]
    averaged, path = follow(monkeypatch, step, tmp_path / "average", *words, *EMA)
    for key, weight in averaged.items():
        expected = moving_average(path, key).float()
        torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-8)
    last, plain = follow(monkeypatch, step, tmp_path / "last", *words)
    assert lines_of(tmp_path / "last") == lines_of(tmp_path / "average")
    for key, weight in last.items():
        assert torch.equal(weight, plain[-1][key])
        assert all(torch.equal(path[step][key], plain[step][key]) for step in range(STEPS))


def test_the_last_validation_loss_is_that_of_the_artifact(tiny_llama, data, tmp_path, monkeypatch):
    """Rounded to bf16 as the base is. Step validation_loss takes it, and computes the same bytes.

    Its second batch has one row. It takes no losses of other weights or with other threads.
    """
    base = tmp_path / "base in bf16"
    AutoModelForCausalLM.from_pretrained(tiny_llama, dtype="bfloat16").save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(base)
    held_out = Chain(tmp_path, {"tokens": ["--validation-rows", 9]}, base=base, data=data)["tokens"]
    chain, losses = Chain(tmp_path, base=base, data=held_out), tmp_path / "losses.json"
    words = [*chain.words("moe_sft"), *FLAGS, "--eval-steps", 5, "--batching", "packed"]
    lines = learn("moe_sft", tmp_path / "out", *words, *EMA, "--losses", losses)
    assert [line["step"] for line in lines if "validation_loss" in line] == [5, STEPS]
    best = ["--keep", "best", "--losses", tmp_path / "best.json"]
    learn("moe_sft", tmp_path / "best", *words, *best)
    assert not (tmp_path / "best.json").exists()

    def measure(name, model="out", *flags):
        words = ["--model", tmp_path / model, "--data", held_out, "--out", tmp_path / name, *flags]
        run_here("validation_loss", words)
        return (tmp_path / name).read_bytes()

    computed = measure("computed")
    assert lines[-1]["validation_loss"] == json.loads(computed)["loss"]
    curve = tmp_path / "curve.jsonl"
    curve.write_text("".join(f'{{"validation_loss": {loss}}}\n' for loss in (4, 3, 2, 1)))
    assert json.loads(measure("curved", "out", "--metrics", curve))["change_at_end"] == -0.5
    load = Mock(wraps=load_model)
    monkeypatch.setattr(validation_loss, "load_model", load)
    assert measure("taken", "out", "--losses", losses) == computed
    for number, (model, *flags) in enumerate([["best"], ["out", "--threads", 2]]):
        assert load.call_count == number
        measure(f"other {number}", model, *flags, "--losses", losses)
    assert load.call_count == 2
