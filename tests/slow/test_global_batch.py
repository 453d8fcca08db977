"""The same global batch in other parts: the same losses and the same weights."""

import json
from pathlib import Path

import pytest
import torch
from processes import run_for
from safetensors.torch import load_file, save_file

from xft.artifacts.manifest import manifest_path

pytestmark = pytest.mark.slow
# Rows in a device's batch, batches accumulated, processes.
PARTS = {"4 x 2": (4, 2, 1), "2 processes": (4, 1, 2), "2 processes, 2 x 2": (2, 2, 2)}
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def mixture(tiny_llama, tmp_path_factory) -> Path:
    """A mixture whose experts differ, without noise, which a part has of its own.

    Equal experts would leave the router a gradient of rounding errors, and Adam makes whole steps
    of those.
    """
    folder = tmp_path_factory.mktemp("mixture") / "moe"
    sizes = ["--num-experts", "4", "--num-experts-per-tok", "3"]
    words = ["--base", str(tiny_llama), "--out", str(folder), "--no-router-noise"]
    assert run_for("moe", [*words, *sizes])
    file = folder / "model.safetensors"
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(file)
    for name in sorted(name for name in tensors if ".experts." in name):
        tensors[name] += 0.02 * torch.randn(tensors[name].shape, generator=generator)
    file.unlink()
    save_file(tensors, file)
    manifest_path(folder).unlink()
    return folder


@pytest.fixture(scope="module")
def learn(mixture, tmp_path_factory):
    """Callable (rows, accumulated, processes, flags): the losses of 20 steps, and the weights."""
    root = tmp_path_factory.mktemp("learned")
    rows = [
        {"instruction": f"Add {n} to x.", "response": f"return x + {n}" * (1 + n % 5)}
        for n in range(64)
    ]
    file = root / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(
        per_device: int, accumulated: int, processes: int, *flags: str
    ) -> tuple[list[float], dict]:
        out = root / f"{per_device} {accumulated} {processes}"
        metrics = out.with_suffix(".jsonl")
        words = ["--moe", str(mixture), "--data", str(file), "--out", str(out)]
        words += ["--metrics", str(metrics), "--max-steps", "20", "--max-length", "300"]
        words += ["--per-device-train-batch-size", str(per_device), "--learning-rate", "0.001"]
        words += ["--gradient-accumulation-steps", str(accumulated)]
        words += ["--balance-loss-batch", "global", *flags]
        assert run_for("moe_sft", words, count=processes)
        losses = [json.loads(line)["loss"] for line in metrics.read_text().splitlines()]
        return losses, load_file(out / "model.safetensors")

    return run


@pytest.fixture(scope="module")
def whole(learn):
    return learn(8, 1, 1)


def test_a_balance_loss_of_each_micro_batch_is_another(learn, whole):
    losses, _ = learn(4, 2, 1, "--balance-loss-batch", "micro")
    assert losses[0] != pytest.approx(whole[0][0], rel=TOLERANCE)


@pytest.mark.parametrize("parts", PARTS)
def test_parts_of_a_global_batch_learn_what_the_whole_learns(learn, whole, parts):
    losses, weights = learn(*PARTS[parts])
    assert len(losses) == 20
    assert losses == pytest.approx(whole[0], rel=TOLERANCE)
    for name, expected in whole[1].items():
        error = torch.linalg.vector_norm(weights[name] - expected)
        assert error <= TOLERANCE * torch.linalg.vector_norm(expected), name
