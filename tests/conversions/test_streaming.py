"""What the writer does in a thread and the merge in blocks: errors, the end, equal results."""

import errno
import hashlib
import os
import threading

import pytest
import torch

from xft.checkpoints import writer
from xft.checkpoints.writer import TensorPlan, write_checkpoint
from xft.conversions import merged_tensors as merging
from xft.conversions.merge import mixing_coefficients
from xft.conversions.merged_tensors import merge

VALUES = torch.arange(1001.0)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(writer, "PIECE_BYTES", 100)
    monkeypatch.setattr(writer, "WRITE_BYTES", 30)


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert not [thread for thread in threading.enumerate() if "Pool" in thread.name]


class Broken:
    def update(self, piece):
        raise MemoryError


def full_disk(descriptor: int):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("module", "name", "broken", "error"),
    [(os, "fsync", full_disk, OSError), (hashlib, "sha256", Broken, MemoryError)],
)
def test_an_error_of_the_disk_or_of_the_hash_is_raised(
    tmp_path, monkeypatch, module, name, broken, error
):
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(error):
        write_checkpoint(tmp_path, [TensorPlan("w", "F32", (1001,), lambda: [VALUES])])


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_no_thread(tmp_path, stop):
    def chunks():
        yield VALUES[:500]
        raise stop

    with pytest.raises(stop):
        write_checkpoint(tmp_path, [TensorPlan("w", "F32", (1001,), chunks)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (33, 31), (4, 0)])
def test_merging_in_blocks_changes_no_bit(monkeypatch, dtype, shape):
    monkeypatch.setattr(merging, "MERGE_BLOCK", 50)
    experts = [torch.randn(shape).to(dtype) for _ in range(4)]
    coefficients = mixing_coefficients(torch.randn(3), None, 0.6)
    expected = experts[0].float() * coefficients[0].item()
    for expert, coefficient in zip(experts[1:], coefficients[1:].tolist(), strict=True):
        expected.add_(expert, alpha=coefficient)
    merged = merge(experts, coefficients)
    assert torch.equal(merged.view(torch.int32), expected.view(torch.int32))
