"""What generates with each model where evaluation.backend is vllm."""

import os
import re
from pathlib import Path

import pytest

from xft.common import optional

STAND_INS = Path(__file__).parents[1] / "stand_ins"
EVALUATION = {"backend": "vllm", "models": ["base", "moe", "moe_sft", "dense"]}


@pytest.fixture(scope="module")
def project(new_project):
    return new_project("backend")


def test_mixtures_are_generated_by_transformers(project, monkeypatch):
    if not optional.installed("vllm"):
        paths = [str(STAND_INS), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, paths)))
    done = project.snakemake("-np", evaluation=EVALUATION)

    assert done.returncode == 0, done.stdout + done.stderr
    commands = re.findall(r"workflow_scripts\.eval --model '?results/([^ ']+)'? .*", done.stdout)
    backends = re.findall(r"workflow_scripts\.eval .* --backend (\w+) ", done.stdout)
    assert dict(zip(commands, backends, strict=True)) == {
        "base": "vllm",
        "moe": "transformers",
        "moe_sft": "transformers",
        "dense/lam~0.75": "vllm",
    }


@pytest.mark.skipif(bool(optional.installed("vllm")), reason="vLLM is installed")
def test_without_vllm_nothing_is_run(project):
    done = project.snakemake("-n", evaluation=EVALUATION)

    assert done.returncode != 0
    text = done.stdout + done.stderr
    assert "vllm needs the package vllm, which is not installed" in text
    assert "Traceback" not in text
