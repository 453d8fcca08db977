"""The memory that a plan expects against what trainings take: within 25%, on the CPU."""

import subprocess
import sys

import pytest

from benchmarks import memory

pytestmark = pytest.mark.slow

TOLERANCE = 0.25


def check(model, folder, batch, monkeypatch):
    for name, value in memory.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    models = memory.models_of(model)
    memory.make_artifacts(model, folder, batch)
    for case in memory.CASES:
        planned, _ = memory.planned(models, batch, None, *case)
        found = memory.measured(folder, batch, *case)
        assert planned == pytest.approx(found, rel=TOLERANCE), case


def test_the_embedded_model(tmp_path, monkeypatch):
    check(memory.EMBEDDED, tmp_path, memory.Batch(32, 384), monkeypatch)


def test_a_model_of_135m(repository, tmp_path, monkeypatch):
    maker = repository.parent / "shared" / "tools" / "get-smollm2.py"
    if not maker.exists():
        pytest.skip("needs the real model's maker")
    model = tmp_path / "smollm2"
    subprocess.run([sys.executable, maker, model], check=True)
    check(model, tmp_path, memory.Batch(2, 128), monkeypatch)
