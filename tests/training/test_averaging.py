"""Averages of the weights along a training, against the weights after each of its steps."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from chains import Chain
from processes import run_for
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from workflow_scripts import moe_sft, sft, tokens, validation_loss
from xft.common.errors import UserError
from xft.training.callbacks import ProgressCallback

STEPS = 8
FLAGS = [
    *("--max-steps", str(STEPS), "--per-device-train-batch-size", "4"),
    *("--learning-rate", "0.01"),
]
MEAN = ["--average-last", "3", "--average-every", "2"]
POINTS = (4, 6, 8)
DECAY = 0.7
EMA = ["--ema-decay", str(DECAY)]


@pytest.fixture(scope="module")
def inputs(tiny_llama, tmp_path_factory) -> dict[str, list[str]]:
    """The arguments of each training but for --out: of the mixture, of the base, and of one in
    bf16 whose tied head is stored too.
    """
    root = tmp_path_factory.mktemp("inputs")
    rows = [{"instruction": f"Add {n} to x.", "response": f"return x + {n}"} for n in range(15)]
    data = root / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chain = Chain(root, base=tiny_llama, data=data)
    tied = make_tied(tiny_llama, root / "tied")
    return {
        "moe_sft": [*chain.words("moe_sft"), *FLAGS],
        "sft": ["--base", str(tiny_llama), "--data", str(data), *FLAGS],
        "tied": ["--base", str(tied), "--data", str(data), *FLAGS],
    }


def make_tied(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"tie_word_embeddings": True, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    file = folder / "model.safetensors"
    weights = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, file)
    return folder


@pytest.fixture
def learn(inputs, tmp_path, monkeypatch):
    """Callable (name, *flags): train. The weights of the artifact, and those after each step."""

    def run(name: str, *flags: str) -> tuple[dict, list[dict]]:
        path = []

        def on_optimizer_step(self, args, state, control, model, **kwargs):
            path.append({key: value.clone() for key, value in model.state_dict().items()})

        monkeypatch.setattr(ProgressCallback, "on_optimizer_step", on_optimizer_step)
        step = moe_sft if name == "moe_sft" else sft
        step.main([*inputs[name], *flags, *outputs(tmp_path)])
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
        assert len(path) == STEPS
        return model.state_dict(), path

    return run


def outputs(folder: Path) -> list[str]:
    return ["--out", str(folder / "out"), "--metrics", str(folder / "out.jsonl")]


def mean(path: list[dict], name: str) -> torch.Tensor:
    return sum(path[step - 1][name].float() for step in POINTS) / len(POINTS)


def moving_average(path: list[dict], name: str) -> torch.Tensor:
    first, *others = (weights[name].double() for weights in path)
    for weights in others:
        first = DECAY * first + (1 - DECAY) * weights
    return first


@pytest.mark.parametrize(
    ("name", "flags"),
    [("moe_sft", []), ("sft", ["--precision", "bf16_pure"]), ("tied", [])],
    ids=["mixture", "bf16_pure", "tied"],
)
def test_the_artifact_is_the_mean_of_the_last_points(learn, name, flags):
    """To the last bit: a sum in fp32, divided once, and rounded once to the artifact's dtype."""
    learned, path = learn(name, *MEAN, *flags)
    for key, weight in learned.items():
        assert torch.equal(weight, mean(path, key).to(weight.dtype)), key


@pytest.mark.parametrize(
    ("name", "flags"),
    [("moe_sft", []), ("sft", ["--precision", "bf16_pure"])],
    ids=["mixture", "bf16_pure"],
)
def test_the_artifact_is_the_moving_average(learn, name, flags):
    learned, path = learn(name, *EMA, *flags)
    for key, weight in learned.items():
        expected = moving_average(path, key).float()
        torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("flags", [MEAN, EMA], ids=["mean", "ema"])
def test_an_average_changes_no_step_of_the_training(learn, tmp_path, flags):
    averaged, path = learn("moe_sft", *flags)
    lines = (tmp_path / "out.jsonl").read_text()
    last, plain = learn("moe_sft", "--average-every", "3")
    assert (tmp_path / "out.jsonl").read_text() == lines
    for key, weight in last.items():
        assert torch.equal(weight, plain[-1][key])
        assert all(torch.equal(path[step][key], plain[step][key]) for step in range(STEPS))
    assert not all(torch.equal(averaged[key], weight) for key, weight in last.items())


@pytest.mark.parametrize("flags", [MEAN, EMA], ids=["mean", "ema"])
def test_the_last_validation_loss_is_that_of_the_artifact(inputs, tmp_path, flags):
    base, data = inputs["sft"][1], inputs["sft"][3]
    held_out, loss = tmp_path / "tokens", tmp_path / "loss.json"
    report = ["--validation-rows", "3", "--report", str(tmp_path / "report.json")]
    tokens.main(["--model", base, "--data", data, *report, "--out", str(held_out)])
    words = ["--base", base, "--data", str(held_out), *FLAGS, "--eval-steps", "5", *flags]
    sft.main([*words, *outputs(tmp_path)])
    out = str(tmp_path / "out")
    validation_loss.main(["--model", out, "--data", str(held_out), "--out", str(loss)])
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation_loss" in line] == [5, STEPS]
    assert lines[-1]["validation_loss"] == pytest.approx(
        json.loads(loss.read_text())["loss"], rel=1e-6
    )


@pytest.mark.parametrize("flags", [MEAN, EMA], ids=["mean", "ema"])
def test_two_processes_average_what_one_averages(inputs, tmp_path, flags):
    ddp = ["--launch", "ddp", "--processes", "2", "--per-device-train-batch-size", "2"]
    results = []
    for count, more in ((1, []), (2, ddp)):
        folder = tmp_path / str(count)
        words = [*inputs["sft"], "--validation-rows", "3", *flags, *more, *outputs(folder)]
        assert run_for("sft", words, count=count)
        lines = (folder / "out.jsonl").read_text().splitlines()
        results.append((load_file(folder / "out" / "model.safetensors"), json.loads(lines[-1])))
    (one, line), (two, other) = results
    assert other == pytest.approx(line, rel=1e-6)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-5, atol=1e-6)


def test_points_before_the_first_step_stop_the_training_before_it(inputs, tmp_path):
    words = [*inputs["sft"][:4], "--num-train-epochs", "1", "--average-last", "3"]
    with pytest.raises(UserError, match=r"average_last = 3, average_every = 10: .* has 2 steps"):
        sft.main([*words, *outputs(tmp_path)])
    assert not (tmp_path / "out").exists()
