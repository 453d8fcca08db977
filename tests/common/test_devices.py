"""What a step says of its device, and of NaN on a processor whose products were wrong."""

import pytest

from xft.common import devices
from xft.common.devices import advice_on_nan, describe_device


@pytest.mark.parametrize(
    ("flags", "advises"), [("avx512f amx_bf16 amx_tile", True), ("avx2", False)]
)
def test_nan_on_a_processor_with_amx_comes_with_advice(tmp_path, monkeypatch, flags, advises):
    (tmp_path / "cpuinfo").write_text(f"flags : fpu {flags}\n")
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "cpuinfo")
    assert ("ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16" in advice_on_nan()) == advises
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "none")
    assert advice_on_nan() == ""


def test_number_types_have_one_name_in_the_log():
    for precision, dtype in (
        ("torch.bfloat16", "bf16 w"),
        ("bf16", "bf16 over"),
    ):
        assert describe_device("cpu", precision, 2).startswith(f"device cpu, 2 threads, {dtype}")
