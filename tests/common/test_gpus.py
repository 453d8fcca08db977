"""Which GPUs steps take that run side by side, where a script stands in for nvidia-smi. What a step
says of its device, and of NaN on a processor whose products were wrong.
"""

import os
import subprocess
import sys
import uuid

import pytest

from xft.common import gpus
from xft.common.gpus import advice_on_nan, describe_device

SHOW = """
import os, sys
print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def step(tmp_path, repository, monkeypatch):
    """Starts a command with GPUs of a machine with three. It then goes on."""
    identities = [f"GPU-{uuid.uuid4()}" for _ in range(3)]
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\n" + "".join(f"echo {identity}\n" for identity in identities))
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    started = []

    def start(count: int, visible: str | None = None) -> subprocess.Popen:
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible.format(*identities))
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        taking = [sys.executable, "-m", "xft.common.gpus", str(count)]
        command = [*taking, sys.executable, "-c", SHOW]
        started.append(subprocess.Popen(command, cwd=repository, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def sees(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


def test_a_step_waits_until_enough_gpus_are_free(step):
    first = step(2)
    assert sees(first) == "0,1 PCI_BUS_ID"
    waiting = step(2)
    assert waiting.stderr.readline() == ("waiting for 2 of 3 GPUs: other steps have taken them\n")
    assert sees(step(1)) == "2 PCI_BUS_ID"  # the one that waits has taken none
    first.kill()
    assert sees(waiting) == "0,1 PCI_BUS_ID"


def test_a_gpu_is_the_same_by_its_number_and_identity_and_without_enough_all_stay_visible(step):
    asked = (4,), (0,), (1, "1"), (1, "{1}, 2")
    assert [sees(step(*words)) for words in asked] == [*["None None"] * 2, "1 None", "2 None"]


@pytest.mark.parametrize(("flags", "advises"), [("avx512f amx_bf16 amx", True), ("avx2", False)])
def test_nan_on_a_processor_with_amx_comes_with_advice(tmp_path, monkeypatch, flags, advises):
    (tmp_path / "cpuinfo").write_text(f"flags : fpu {flags}\n")
    monkeypatch.setattr(gpus, "CPU_INFO", tmp_path / "cpuinfo")
    assert ("ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16" in advice_on_nan()) == advises
    monkeypatch.setattr(gpus, "CPU_INFO", tmp_path / "none")
    assert advice_on_nan() == ""


def test_number_types_have_one_name_in_the_log():
    for precision, dtype in (("torch.bfloat16", "bf16 w"), ("bf16", "bf16 over")):
        assert describe_device("cpu", precision, 2).startswith(f"device cpu, 2 threads, {dtype}")
