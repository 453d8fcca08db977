"""The whole workflow on one GPU and on two, in processes of its own, beside the CPU's."""

import json
import re

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
    folder = project.results / "validation"
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*.json")}
    results = {name: json.loads(file.read_text()) for name, file in files.items()}
    return {name: result["loss"] for name, result in results.items() if "loss" in result}


def test_it_gives_the_losses_and_samples_of_the_cpu(new_project, monkeypatch, call_step):
    """A training is in bf16 on the GPU, and in fp32 on the CPU. All evaluate in fp32."""
    on_gpu, on_cpu = new_project("gpu"), new_project("cpu")
    made = on_gpu.run(gpus=1, **CONFIG)
    check_memory_is_measured(on_gpu, call_step)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert made == on_cpu.run(**CONFIG)
    found, expected = losses(on_gpu), losses(on_cpu)
    assert found == pytest.approx(expected, rel=BF16)
    assert found["base.json"] == pytest.approx(expected["base.json"], rel=1e-5)
    assert samples(on_gpu, "base") == samples(on_cpu, "base")
    result = json.loads((on_gpu.results / LAST).read_text())
    assert result["settings"]["device"] == "cuda"


def check_memory_is_measured(project: Project, call_step) -> None:
    """What torch took of the GPU stands in the job's costs, its page and `xft status`, and counts
    in the plan of the next run.
    """
    costs = json.loads((project.results / "costs/moe_sft.costs.json").read_text())
    (attempt,) = costs["attempts"]
    assert 0 < attempt["gpu_allocated_gib"] <= attempt["gpu_reserved_gib"] < 1
    assert costs["expected"]["gpu_gib"] > 1 and costs["expected"]["memory_gib"] is None
    assert "Memory on the GPU" in (project.results / "report.html").read_text()
    took = "{gpu_allocated_gib:.1f} allocated, {gpu_reserved_gib:.1f} reserved".format(**attempt)
    shown = call_step("status", "results", cwd=project.folder).stdout
    assert re.search(f"memory on the GPU(.*\n)+  moe_sft +{took}, 1.. expected", shown)
    config = project.results / "config.yaml"
    shown = call_step("plan", "--config", config, "--details", cwd=project.folder).stdout
    assert re.search(r"moe_sft before: .* times its estimate", shown)


def gpus_taken(project: Project, log: str) -> list[str]:
    """The GPUs of the jobs whose logs have such names, by their numbers."""
    logs = [file.read_text() for file in (project.results / "logs").glob(log)]
    return [re.search(r"GPU (\S+) of this machine", text)[1] for text in logs]


def test_two_gpus_train_together(new_project, monkeypatch):
    """In processes that torchrun starts, each with a GPU. An evaluation has one GPU."""
    monkeypatch.setenv("EMULATED_GPUS", "2")
    on_gpu, on_cpu = new_project("gpus"), new_project("cpus")
    config = CONFIG | {"evaluation": QUICK["evaluation"] | {"models": ["moe_sft", "dense"]}}
    for section, launch in (("moe_sft", "zero3"), ("mixing", "ddp")):
        halved = {"launch": launch, "processes": 2, "per_device_train_batch_size": 2}
        config[section] = QUICK[section] | halved
    made = on_gpu.run("--resources", "gpu=2", gpus=1, **config)
    for training in ("moe_sft.log", "weighted_trained/*.log"):
        assert gpus_taken(on_gpu, training) == ["0,1"]
    taken = gpus_taken(on_gpu, "eval/**/*.log")
    assert len(taken) == 2 and set(taken) <= {"0", "1"}
    log = (on_gpu.results / "logs/moe_sft.log").read_text()
    assert "device cuda:0 (Emulated GPU), bf16" in log
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert made == on_cpu.run(**config)
    assert losses(on_gpu) == pytest.approx(losses(on_cpu), rel=BF16)
