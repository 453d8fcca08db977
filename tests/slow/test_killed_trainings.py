"""Trainings that are killed again and again go on to the bytes of one that was left alone."""

import json
import random
import time
from pathlib import Path

import pytest
from chains import Chain
from processes import run_apart, run_for

from xft.artifacts.manifest import manifest_path, read_manifest

pytestmark = pytest.mark.slow
STEPS = ("moe_sft", "weighted_trained")
# The average of the tuning, by the number of processes.
AVERAGES = {1: ["--average-last", "8", "--average-every", "5"], 2: ["--ema-decay", "0.9"]}
KILLS = 4
FASTER = 1.2  # or slower the machine may have become since the moments were chosen
TRAINING = [
    *("--max-steps", "60", "--per-device-train-batch-size", "2", "--max-length", "300"),
    *("--save-minutes", "0"),
]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, tiny_llama) -> dict[str, list[str]]:
    """The arguments of both trainings but for --out and --metrics."""
    root = tmp_path_factory.mktemp("inputs")
    rows = [{"instruction": f"Add {n} to x.", "response": f"return x + {n}"} for n in range(50)]
    file = root / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chain = Chain(root, run=run_apart, base=tiny_llama, data=file)
    return {step: [*chain.words(step), *TRAINING] for step in STEPS}


def outputs(out: Path) -> list[str]:
    return ["--out", str(out), "--metrics", str(out.with_suffix(".jsonl"))]


def identity(out: Path) -> str:
    return read_manifest(manifest_path(out)).id


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("step", STEPS)
def test_a_training_killed_many_times_ends_in_the_same_bytes(step, processes, arguments, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    words = [*arguments[step], *(AVERAGES[processes] if step == "moe_sft" else [])]
    start = time.perf_counter()
    assert run_for(step, [*words, *outputs(whole)], count=processes)
    duration = time.perf_counter() - start
    moments, killed, resumable = random.Random(f"{step} {processes}"), 0, 0
    words += outputs(out)
    while killed < KILLS or resumable < KILLS // 2:
        if run_for(step, words, moments.uniform(0.3, 1) * duration, processes):
            assert identity(out) == identity(whole)
            duration /= FASTER
            continue
        killed += 1
        if list(tmp_path.glob(".out.training/*/checkpoint-*.manifest.json")):
            resumable += 1
        else:  # before the first checkpoint
            duration *= FASTER
    assert run_for(step, words, count=processes)
    assert identity(out) == identity(whole)
    assert out.with_suffix(".jsonl").read_text() == whole.with_suffix(".jsonl").read_text()
    assert not list(tmp_path.glob(".*"))
