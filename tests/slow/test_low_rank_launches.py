"""Low-rank tunings whose weights are sharded learn what they learn in one process."""

import json
from pathlib import Path

import pytest
import torch
from mixtures import low_rank_mixture
from processes import run_for
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
LAUNCHES = ["zero2", "zero3", "fsdp"]
ADAPTERS = ["--lora-rank", "4", "--lora-alpha", "6"]
BEST = ["--validation-rows", "8", "--eval-steps", "2", "--keep", "best"]
# train_rest of a mixture, or "sft" for the baseline, with other options that read the weights
TRAININGS = {
    "frozen": ["--activation-checkpointing"],
    "full": BEST,
    "lora": ["--batching", "packed"],
    "sft": [*ADAPTERS, *BEST],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    rows = [
        {"instruction": f"Add {n} to x.", "response": f"return x + {n}" * (1 + n % 3)}
        for n in range(16)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def whole(tiny_llama, data, tmp_path_factory):
    """Callable (training): the folder of a training in one process, whose inputs lie beside it.

    All experts compute each token, so that no rounding changes a token's experts.
    """
    made: dict[str, Path] = {}

    def run(training: str) -> Path:
        if training not in made:
            root = tmp_path_factory.mktemp(training)
            if training != "sft":
                plain = {"router_noise": False, "balance_loss_coef": 0.0, "num_experts_per_tok": 4}
                low_rank_mixture(tiny_llama, root / "moe", train_rest=training, **plain)
            made[training] = learn(training, tiny_llama, data, root, "whole", 8)
        return made[training]

    return run


def learn(
    training: str, base: Path, data: Path, root: Path, name: str, rows: int, *flags: str
) -> Path:
    """Train in one process, or in two if there are flags."""
    out = root / name
    step, model = (
        ("sft", ["--base", base]) if training == "sft" else ("moe_sft", ["--moe", root / "moe"])
    )
    words = [*model, "--data", data, "--out", out, "--metrics", out.with_suffix(".jsonl")]
    words += ["--max-steps", 6, "--learning-rate", 0.01, "--per-device-train-batch-size", rows]
    words += [*TRAININGS[training], *flags]
    assert run_for(step, [str(word) for word in words], count=2 if flags else 1)
    return out


def numbers(out: Path, *keys: str) -> list[float]:
    lines = map(json.loads, out.with_suffix(".jsonl").read_text().splitlines())
    return [line[key] for line in lines for key in keys if key in line]


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("launch", LAUNCHES)
def test_two_processes_learn_what_one_learns(launch, training, whole, tiny_llama, data):
    """AdamW makes much of the rounding of small gradients, so the norm of what was learned counts.
    The norms of the gradients are compared too: AdamW does not tell how large these are.
    """
    one = whole(training)
    flags = ["--launch", launch, "--processes", "2"]
    two = learn(training, tiny_llama, data, one.parent, launch, 4, *flags)
    for keys in ("loss", "validation_loss"), ("grad_norm",):
        assert numbers(two, *keys) == pytest.approx(numbers(one, *keys), rel=1e-3)
    source = tiny_llama if training == "sft" else one.parent / "moe"
    before, expected, after = (load_file(f / "model.safetensors") for f in (source, one, two))
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        learned = torch.linalg.vector_norm(expected[name] - tensor)
        assert torch.linalg.vector_norm(after[name] - expected[name]) <= 0.01 * learned, name


@pytest.mark.parametrize("launch", LAUNCHES)
def test_bf16_rounds_no_frozen_weight(launch, tiny_llama, data, tmp_path):
    """At a rate of almost 0 the merged weights are those of the base, to the last bit of fp32."""
    flags = ["--launch", launch, "--processes", "2", "--keep", "last"]
    still = ["--precision", "bf16", "--learning-rate", "1e-30"]
    out = learn("sft", tiny_llama, data, tmp_path, "out", 4, *flags, *still)
    before, after = (load_file(f / "model.safetensors") for f in (tiny_llama, out))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in before.values())
