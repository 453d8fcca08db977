"""The recipe for SmolLM2-135M on the real model and data, in a few steps and problems."""

import json
import shutil
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.slow

SHORT = {
    "data": {"limit": 40},
    "moe_sft": {"max_steps": 2, "per_device_train_batch_size": 2, "warmup_steps": 0},
    "mixing": {"max_steps": 2, "per_device_train_batch_size": 2},
    "evaluation": {"limit": 2, "max_new_tokens": 48, "batch_size": 2},
}


def test_the_recipe_runs_through(repository, new_project, monkeypatch):
    shared = repository.parent / "shared"
    if not shared.exists():
        pytest.skip("needs a folder with the real model's maker and data")
    project = new_project("smollm2")
    project.overlay = SHORT
    (project.folder / "models").mkdir()
    subprocess.run(
        [sys.executable, shared / "tools" / "get-smollm2.py", "models/smollm2-135m"],
        cwd=project.folder,
        check=True,
    )
    (project.folder / "data").mkdir()
    rows = shared / "data" / "evol-codealpaca-2k-1.json"
    shutil.copy(rows, project.folder / "data" / "evol-codealpaca.json")
    for name, file in (("HUMANEVAL", "HumanEvalPlus"), ("MBPP", "MbppPlus")):
        monkeypatch.setenv(f"{name}_OVERRIDE_PATH", str(shared / "data" / f"{file}.jsonl.gz"))
    rules = project.run("--configfile", "recipes/smollm2-135m.yaml")
    assert len(rules) == 16
    results = project.results / "smollm2-135m"
    base, dense = (
        json.loads((results / name / "config.json").read_text())
        for name in ("base", "dense/lam~0.75")
    )
    assert dense == base
    model = AutoModelForCausalLM.from_pretrained(results / "dense" / "lam~0.75")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    score = json.loads((results / "eval" / "dense" / "lam~0.75" / "humaneval.json").read_text())
    assert score["dataset"]["problems"] == 2
