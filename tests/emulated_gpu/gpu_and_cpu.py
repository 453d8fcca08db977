"""What is computed on the emulated GPU, beside the same on the CPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

GPU = torch.device("cuda", 0)
BF16 = 2**-8  # the rounding of a value


@contextmanager
def without_gpu() -> Iterator[None]:
    """A block in which torch says that there is no GPU, so that all is computed on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.cuda, "device_count", lambda: 0)
        patch.setenv("DS_ACCELERATOR", "cpu")  # a training without a GPU sets it, and not back
        yield


def on_both(make: Callable[[str], object]) -> tuple:
    """What a function of "gpu" or "cpu" gives on the GPU, and on the CPU."""
    found = make("gpu")
    with without_gpu():
        return found, make("cpu")


def check_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """The tensor is on the GPU, and the norm of its difference is a small share of the other."""
    assert found.device == GPU
    difference = found.detach().cpu().double() - expected.detach().double()
    assert difference.norm() <= tolerance * expected.detach().double().norm()
