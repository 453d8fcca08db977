"""The memory that a plan expects against what trainings take: within 15%, on the CPU."""

import subprocess
import sys

import pytest

from benchmarks import memory
from workflow_scripts.planning.activations import Batch

pytestmark = pytest.mark.slow

TOLERANCE = 0.15
ON_THE_LARGER = [("moe_sft", "fp32", "adamw"), ("moe_sft", "bf16_pure", "adafactor")]
ON_THE_LARGER += [("weighted_trained", "fp32", "adamw")]
ON_THE_EMBEDDED = [case for case in memory.CASES if case not in ON_THE_LARGER]


def check(model, folder, batch, cases, monkeypatch, whole=False):
    for name, value in (memory.QUIET if whole else memory.QUIET | memory.GIVE_BACK).items():
        monkeypatch.setenv(name, value)
    models = memory.models_of(model)
    memory.make_artifacts(model, folder, batch)
    for case in cases:
        planned = memory.planned(models, batch, case, whole)
        found = memory.measured(folder, batch, case, whole)
        assert planned == pytest.approx(found, rel=TOLERANCE), case


def test_the_embedded_model(tmp_path, monkeypatch):
    check(memory.EMBEDDED, tmp_path, Batch(32, 384), ON_THE_EMBEDDED, monkeypatch)


def test_the_whole_process_with_its_libraries(tmp_path, monkeypatch):
    cases = [("moe_sft", "fp32", "adamw"), ("weighted_trained", "fp32", "adamw")]
    check(memory.EMBEDDED, tmp_path, Batch(32, 384), cases, monkeypatch, whole=True)


def test_a_model_of_135m(repository, tmp_path, monkeypatch):
    maker = repository.parent / "shared" / "tools" / "get-smollm2.py"
    if not maker.exists():
        pytest.skip("needs the real model's maker")
    model = tmp_path / "smollm2"
    subprocess.run([sys.executable, maker, model], check=True)
    check(model, tmp_path, Batch(2, 128), ON_THE_LARGER, monkeypatch)
