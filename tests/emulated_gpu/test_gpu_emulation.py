"""The emulated GPU itself: values, draws, memory, and what it does not know."""

import os
import subprocess
import sys

import pytest
import torch
from gpu_and_cpu import BF16, GPU, check_near
from torch import nn

MIB = 2**20


def test_values_are_those_of_the_host_and_devices_are_checked():
    torch.manual_seed(0)
    here = torch.randn(6, 5)
    there = here.to(GPU)
    assert torch.equal((there @ there.t()).cpu(), here @ here.t())
    assert torch.equal(there[there > 0].cpu(), here[here > 0])
    assert there[:, 2:].tolist() == here[:, 2:].tolist()
    assert there.sum().item() == here.sum().item()
    for refused in (lambda: here + there, lambda: here[there.long()], there.numpy):
        with pytest.raises((RuntimeError, TypeError), match=r"device|cuda"):
            refused()


def test_draws_follow_from_the_gpus_generator_alone():
    torch.manual_seed(0)
    first, on_cpu = nn.functional.dropout(torch.ones(64, device=GPU)), torch.rand(3)
    other = nn.functional.dropout(torch.ones(64, device=GPU))
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), on_cpu)
    assert nn.functional.dropout(torch.ones(64, device=GPU)).tolist() == first.tolist()
    assert first.tolist() != other.tolist() and set(first.tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("kind", ["whole", "causal", "masked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_computed_by_the_kernel_that_a_card_takes(kind, dtype):
    """Flash attention in bf16 without a mask, else the memory-efficient one. The CPU's values."""
    inputs = torch.randn(3, 2, 4, 10, 8).to(dtype)
    mask = torch.randn(2, 1, 10, 10).to(dtype) if kind == "masked" else None
    found = {}
    for device in ("cpu", "cuda"):
        given = [one.to(device).requires_grad_() for one in inputs]
        bias = None if mask is None else mask.to(device)
        output = nn.functional.scaled_dot_product_attention(
            *given, attn_mask=bias, is_causal=kind == "causal"
        )
        (output * torch.arange(8, device=device)).sum().backward()
        found[device] = [output, *(one.grad for one in given)]
    kernel = "Flash" if dtype == torch.bfloat16 and mask is None else "Efficient"
    assert kernel in found["cuda"][0].grad_fn.name()
    for value, expected in zip(found["cuda"], found["cpu"], strict=True):
        check_near(value, expected, 1e-6 if dtype == torch.float32 else 2 * BF16)


def test_a_card_without_kernels_of_its_own_runs_older_ones():
    """A scan: CUB chooses its kernel by the architecture that the kernels are compiled for."""
    code = "import torch; print(torch.ones(3, dtype=torch.long, device='cuda').cumsum(0).tolist())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"EMULATED_GPU_CAPABILITY": "8.9"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[1, 2, 3]", done.stderr


def test_the_allocator_has_the_memory_of_the_card():
    before = torch.cuda.memory_allocated()
    held = torch.empty(64 * MIB, device=GPU)
    assert torch.cuda.memory_allocated() - before == held.nbytes
    most = torch.cuda.get_device_properties(0).total_memory
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        torch.empty(most, dtype=torch.uint8, device=GPU)


def test_pinned_memory_of_the_host_is_known():
    """FSDP asks for it: what is not pinned is copied, and its optimiser would step on the copy."""
    plain = torch.arange(3.0)
    pinned = plain.pin_memory()
    assert pinned.is_pinned() and not plain.is_pinned()
    assert pinned.to(GPU, non_blocking=True).tolist() == plain.tolist()


def test_an_unknown_call_is_named():
    code = "import torch; torch.cuda.graph(torch.cuda.CUDAGraph()).__enter__()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "emulated GPU: cudaStreamBeginCapture is not emulated" in done.stderr
    assert "the emulated GPU has no cudaStreamBeginCapture" in done.stderr


LARGE = """
import re, torch
weight = torch.empty(2**31, dtype=torch.bfloat16)  # 4 GiB
layer = torch.nn.Linear(2048, 2048, device="cuda")
there = weight.to(torch.float32).cuda()
there += 1
layer(torch.ones(1024, 2048, device="cuda")).sum().backward()
norms = torch._foreach_norm([layer.weight.grad, layer.bias.grad])
values = [there.norm(), there.cpu().amax(), sum(norms), 1 + layer.bias.grad.sum()]
# The kernel's maximum of getrusage begins with the size of the process that started this one.
(used_on_host,) = re.findall(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())
print(*(value.item() for value in values), torch.cuda.max_memory_allocated(), used_on_host)
"""


def test_large_tensors_have_memory_and_no_values(monkeypatch):
    """Their sums are zero, and the allocator counts them. Small tensors are computed."""
    monkeypatch.setenv("EMULATED_GPU_MOST_BYTES", str(MIB))
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True)
    *values, allocated, used_on_host = map(float, done.stdout.split())
    assert values == [0, 0, 0, 1]
    weights, activations = (2**31 + 2 * 2048 * 2049) * 4, 2 * 1024 * 2048 * 4
    assert 0 <= allocated - weights - activations < 64 * MIB  # and cuBLAS's workspace
    assert used_on_host < 2**20  # KiB
