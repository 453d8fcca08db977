"""Mixing in two processes learns what one process learns from the same global batch.

torchrun runs this file too, in each of the two processes: `test_mixing_processes.py FOLDER`.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from xft.checkpoints.reader import Checkpoint
from xft.common import progress
from xft.config.training import MixingTraining
from xft.conversions.merge import initial_logits
from xft.modeling.mixing import Mixing, MixingLogits
from xft.training.checkpoints import Checkpoints
from xft.training.distillation import load_distillation
from xft.training.launch import end_process
from xft.training.session import adopt_world
from xft.training.trainer import Training, train

TWO = "two"  # where the two processes write, in FOLDER
LAMBDA = 0.6
STEPS = 6
CLIPPED = 1e-3  # below the norm of all steps' gradients
CASES = {
    "fused": {"optim": "adamw_torch_fused", "max_grad_norm": None},
    "fused, clipped": {"optim": "adamw_torch_fused", "max_grad_norm": CLIPPED},
    "adafactor": {"optim": "adafactor", "max_grad_norm": None},
    "adafactor, clipped": {"optim": "adafactor", "max_grad_norm": CLIPPED},
    "checkpointing": {"activation_checkpointing": True},
    "validated": {"eval_steps": 4, "keep": "best"},
    "distilled": {"objective": "kl"},
}


def examples():
    """Rows of differing length, with prompts of differing length that are not trained on."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(12):
        length = 8 + 5 * number % 17
        ids = torch.randint(3, 290, (length,), generator=generator).tolist()
        prompt = 1 + number % 5
        labels = [-100] * prompt + ids[prompt:]
        rows.append({"input_ids": ids, "labels": labels, "row": number})
    return rows


def learn(folder: Path, case: str, out: Path, per_device: int, accumulation: int) -> None:
    """Train the logits. Writes OUT.jsonl, the metrics, and OUT.RANK.safetensors, the logits."""
    experts = Checkpoint(folder / "ffn")
    start = initial_logits(experts, "layer", LAMBDA, learn_lambda=True)
    logits = MixingLogits(start["alpha"], start["lambda_logit"], LAMBDA)
    mixing = Mixing(Checkpoint(folder / "moe"), experts, logits)
    options = MixingTraining(
        num_train_epochs=2,
        max_steps=STEPS,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        learning_rate=0.1,
        warmup_steps=1,
        **CASES[case],
    )
    distillation = None
    if options.objective == "kl":
        distillation = load_distillation(folder / "moe", options.kl_weight, "fp32", "cpu")
    train(
        Training(
            mixing.model,
            examples(),
            AutoTokenizer.from_pretrained(folder / "moe"),
            adopt_world(options, os.environ),
            seed=0,
            checkpoints=Checkpoints(out, "none", math.inf),
            metrics_file=out.with_suffix(".jsonl"),
            mixing=mixing,
            distillation=distillation,
            validation=examples()[:5] if case == "validated" else (),
        )
    )
    rank = os.environ.get("RANK", "0")
    save_file(logits.tensors(), out.with_suffix(f".{rank}.safetensors"))


def learn_all(folder: Path, out: Path, per_device: int, accumulation: int) -> Path:
    """Train all cases; their results are in `out`, which is given back."""
    out.mkdir(exist_ok=True)
    for case in CASES:
        learn(folder, case, out / case, per_device, accumulation)
    return out


@pytest.fixture(scope="module")
def folder(tiny_llama, tmp_path_factory):
    """A mixture, and FFN weights with experts that differ."""
    from mixtures import mixture_and_varied_experts  # which the processes do not find

    root = tmp_path_factory.mktemp("processes")
    mixture_and_varied_experts(tiny_llama, root)
    return root


@pytest.fixture(scope="module")
def launched(folder, repository):
    """Where two processes with two rows each left their results, and what each said, by rank."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", "--redirects", "3", "--log-dir", str(folder / "logs")]
    done = subprocess.run(
        [*command, __file__, str(folder)],
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
    )
    logs = {path.parent.name: path.read_text() for path in folder.glob("logs/*/*/*/stderr.log")}
    assert done.returncode == 0, "\n".join([done.stderr, *logs.values()])
    return folder / TWO, logs


@pytest.fixture(scope="module", params=[(4, 1), (2, 2)], ids=["one batch", "accumulated"])
def one_process(folder, request):
    """Where this process leaves its results, with the same global batch."""
    return learn_all(folder, folder / f"one_{request.param[0]}", *request.param)


def metrics(out: Path, case: str, key: str = "loss") -> list[dict]:
    lines = [json.loads(line) for line in (out / f"{case}.jsonl").read_text().splitlines()]
    return [line for line in lines if key in line]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(one_process, launched, case):
    two, _ = launched
    ours, expected = metrics(two, case), metrics(one_process, case)
    assert len(ours) == len(expected) == STEPS
    for key in ("loss", "grad_norm"):
        series = [line[key] for line in expected]
        assert [line[key] for line in ours] == pytest.approx(series, rel=1e-6), key
    if "clipped" in case:
        assert min(line["grad_norm"] for line in ours) > CLIPPED
    ranks = [load_file(two / f"{case}.{rank}.safetensors") for rank in (0, 1)]
    for name, one in load_file(one_process / f"{case}.0.safetensors").items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        assert (ranks[0][name] - one).abs().max() <= 2e-6 * one.abs().max()


def test_two_processes_have_the_validation_losses_of_one(one_process, launched):
    """Of five rows, one has three and the other two."""
    two, _ = launched
    ours, expected = (metrics(out, "validated", "validation_loss") for out in (two, one_process))
    assert [line["step"] for line in ours] == [4, STEPS]
    for line, other in zip(ours, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-6)


def test_two_processes_have_the_parts_of_the_loss_of_one(one_process, launched):
    """KL is a difference of log-probabilities of size 5, which fp32 rounds at 5e-7."""
    two, _ = launched
    for line, other in zip(
        metrics(two, "distilled"), metrics(one_process, "distilled"), strict=True
    ):
        assert line["ce"] == pytest.approx(other["ce"], rel=1e-6)
        assert line["kl"] == pytest.approx(other["kl"], abs=5e-7)
        assert line["kl"] > 1e-4


@pytest.mark.parametrize("optimizer", ["fused", "adafactor"])
def test_clipping_changes_what_is_learned(one_process, optimizer):
    cases = optimizer, f"{optimizer}, clipped"
    plain, clipped = (load_file(one_process / f"{case}.0.safetensors")["alpha"] for case in cases)
    assert (plain - clipped).abs().max() > 1e-2 * plain.abs().max()


@pytest.mark.parametrize("case", CASES)
def test_one_of_the_processes_writes_the_metrics(launched, case):
    two, _ = launched
    assert [line["step"] for line in metrics(two, case)] == list(range(1, STEPS + 1))


def test_one_of_the_processes_shows_progress(launched):
    _, logs = launched
    assert logs["0"].count(f"train: {STEPS}/{STEPS} step") >= len(CASES)
    assert "train:" not in logs["1"]


if __name__ == "__main__":
    progress.SECONDS_BEFORE_FIRST = 0  # show the short trainings too
    learn_all(Path(sys.argv[1]), Path(sys.argv[1]) / TWO, per_device=2, accumulation=1)
    end_process()
