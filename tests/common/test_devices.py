"""What a step says of where it computes."""

import pytest
import torch

from xft.common import devices
from xft.common.devices import advice_on_nan, describe_device


@pytest.mark.parametrize(
    ("precision", "threads", "line"),
    [
        ("fp32", 2, "device cpu, 2 threads, fp32 weights"),
        ("bf16", 1, "device cpu, 1 thread, bf16 over fp32 weights"),
        ("torch.bfloat16", None, "device cpu, bfloat16 weights"),
    ],
)
def test_a_cpu_is_told_with_its_threads(precision, threads, line):
    assert describe_device("cpu", precision, threads) == line


def test_a_gpu_is_told_by_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    line = "device cuda:1 (GPU of cuda:1), bf16 over fp32 weights"
    assert describe_device("cuda:1", "bf16", 2) == line


@pytest.mark.parametrize(
    ("flags", "advises"), [("avx512f amx_bf16 amx_tile", True), ("avx2", False)]
)
def test_nan_on_a_processor_with_amx_comes_with_advice(tmp_path, monkeypatch, flags, advises):
    (tmp_path / "cpuinfo").write_text(f"flags : fpu {flags}\n")
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "cpuinfo")
    assert ("ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16" in advice_on_nan()) == advises
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "none")
    assert advice_on_nan() == ""
