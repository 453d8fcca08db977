"""What tests of trainings share: rows, a training in this process, and signals in its midst."""

import json
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from chains import run_here
from safetensors.torch import load_file

from xft.artifacts.manifest import manifest_path, read_manifest
from xft.config.training import TrainingConfig
from xft.training.features import StopRequest
from xft.training.metrics import ProgressCallback
from xft.training.saving import Checkpoints
from xft.training.trainer import Training, train


def additions(count: int, most: int, head: str = "") -> list[dict]:
    """Rows with responses of up to `most` times one line, which follows `head`."""
    texts = [f"{head}return x + {n}" * (1 + n % most) for n in range(count)]
    return [{"instruction": f"Add {n} to x.", "response": text} for n, text in enumerate(texts)]


ROWS = additions(12, 3, "def add(x):\n    ")


def write_rows(folder: Path, rows: list[dict] = ROWS) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def random_rows(lengths: list[int], prompt: int = 4, seed: int = 0, kinds: int = 290) -> list[dict]:
    """Rows of random tokens from 3 to `kinds`; the first `prompt` tokens have no label."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(3, kinds, (length,), generator=generator).tolist() for length in lengths]
    learned = [[-100] * prompt + ids[prompt:] for ids in drawn]
    numbered = enumerate(zip(drawn, learned, strict=True), 1)
    return [{"input_ids": ids, "labels": own, "row": n} for n, (ids, own) in numbered]


def learn(step: str, out: Path, *words) -> list[dict]:
    """Run a training step in this process. The lines of its metrics, `out` with `.jsonl`."""
    run_here(step, [*words, *outputs(out)])
    return lines_of(out)


def train_model(model, rows, tokenizer, out: Path, options: TrainingConfig, **more) -> list[dict]:
    """Train a model in place, without a step. The lines of its metrics."""
    checkpoints, metrics = Checkpoints(out, "none", math.inf), out.with_suffix(".jsonl")
    with StopRequest() as stop, checkpoints.claimed():
        more |= {"metrics_file": metrics, "stop": stop}
        train(Training(model, rows, tokenizer, options, 0, checkpoints, **more))
    return lines_of(out)


def outputs(out: Path) -> list[str]:
    return ["--out", str(out), "--metrics", str(out.with_suffix(".jsonl"))]


def lines_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]


def assert_same(out: Path, expected: Path, tolerance: float = 1e-6) -> None:
    """Two trainings have the same losses, of the validation rows too, and the same weights."""
    measured = "loss", "validation_loss"
    for line, other in zip(lines_of(out), lines_of(expected), strict=True):
        losses, others = ([each[key] for key in measured if key in each] for each in (line, other))
        assert losses == pytest.approx(others, rel=tolerance)
    weights, wanted = (load_file(path / "model.safetensors") for path in (out, expected))
    assert weights.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert weights[name].dtype == tensor.dtype
        error = torch.linalg.vector_norm(weights[name] - tensor)
        assert error <= tolerance * torch.linalg.vector_norm(tensor), name


def identity(out: Path) -> str:
    return read_manifest(manifest_path(out)).id


def stop_in(monkeypatch, step: int, *signals: int) -> None:
    """Let these signals come within an optimiser step, counted from 1; by default, SIGTERM."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == step - 1:
            for number in signals or [signal.SIGTERM]:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(ProgressCallback, "on_step_begin", on_step_begin)


@contextmanager
def stopped_in(step: int, number: int = signal.SIGTERM) -> Iterator[None]:
    """Stop the training that runs here by a signal within an optimiser step."""
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, step, number)
        with pytest.raises(SystemExit) as caught:
            yield
    assert caught.value.code == 128 + number
