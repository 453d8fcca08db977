"""The whole workflow with `gpus: 1`, in processes of its own, beside the same on the CPU."""

import csv
import json

import pytest
from gpu_and_cpu import BF16
from project import QUICK, Project

CONFIG = {
    "data": QUICK["data"] | {"validation_rows": 8, "max_length": 256},
    "evaluation": QUICK["evaluation"] | {"models": ["base", "sft", "moe_sft", "dense"]},
}
LAST = "eval/dense/lam~0.75/problems.json"


def samples(project: Project, model: str) -> list[str]:
    """What a model wrote, in the order of the problems."""
    file = project.results / "eval" / model / "problems.generations.jsonl"
    return [json.loads(line)["completion"] for line in file.read_text().splitlines()]


def losses(project: Project) -> dict[str, float]:
    """The validation loss of each model."""
    with (project.results / "summary.csv").open() as file:
        return {row["model"]: float(row["validation_loss"]) for row in csv.DictReader(file)}


def test_it_gives_the_losses_and_samples_of_the_cpu(new_project, monkeypatch):
    """A training is in bf16 on the GPU, and in fp32 on the CPU. All evaluate in fp32."""
    on_gpu, on_cpu = new_project("gpu"), new_project("cpu")
    made = on_gpu.run(gpus=1, **CONFIG)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert made == on_cpu.run(**CONFIG)
    found, expected = losses(on_gpu), losses(on_cpu)
    assert found == pytest.approx(expected, rel=BF16)
    assert found["base"] == pytest.approx(expected["base"], rel=1e-5)
    assert samples(on_gpu, "base") == samples(on_cpu, "base")
    result = json.loads((on_gpu.results / LAST).read_text())
    assert result["settings"]["device"] == "cuda"
