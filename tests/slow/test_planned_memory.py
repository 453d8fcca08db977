"""The memory that a plan expects against what trainings take: within 15%, on the CPU."""

import subprocess
import sys

import pytest

from benchmarks import memory
from workflow_scripts.planning.activations import Batch

pytestmark = pytest.mark.slow

TOLERANCE = 0.15
ON_THE_LARGER = [("moe_sft", "fp32", "adamw"), ("moe_sft", "bf16_pure", "adafactor")]
ON_THE_EMBEDDED = [case for case in memory.CASES if case not in ON_THE_LARGER]


def check(model, folder, batch, cases, monkeypatch):
    for name, value in (memory.QUIET | memory.GIVE_BACK).items():
        monkeypatch.setenv(name, value)
    models = memory.models_of(model)
    memory.make_artifacts(model, folder, batch)
    for case in cases:
        planned = memory.planned(models, batch, case)
        assert planned == pytest.approx(memory.measured(folder, batch, case), rel=TOLERANCE), case


def test_the_embedded_model(tmp_path, monkeypatch):
    check(memory.EMBEDDED, tmp_path, Batch(32, 384), ON_THE_EMBEDDED, monkeypatch)


def test_a_model_of_135m(repository, tmp_path, monkeypatch):
    maker = repository.parent / "shared" / "tools" / "get-smollm2.py"
    if not maker.exists():
        pytest.skip("needs the real model's maker")
    model = tmp_path / "smollm2"
    subprocess.run([sys.executable, maker, model], check=True)
    check(model, tmp_path, Batch(2, 128), ON_THE_LARGER, monkeypatch)
