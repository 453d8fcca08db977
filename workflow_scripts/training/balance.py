"""The balance loss over the whole global batch, however it is split."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed
from torch import Tensor


class GlobalCounts:
    """Completes a micro-batch's importance and load to the sums over the global batch.

    The sums have the gradient of the micro-batch's own part. So each pass adds its share of the
    exact gradient of a loss of the sums, as the gradients of all micro-batches are added up.
    """

    def __init__(self):
        self._ahead: list[Tensor] | None = None
        self._total: Tensor | None = None

    def __call__(self, counts: Tensor) -> Tensor:
        """Counts [layers, 2, R] of one forward pass to those of the global batch."""
        if self._ahead is not None:
            self._ahead.append(counts.detach())
            return counts
        own = counts.detach()
        total = _over_processes(own) if self._total is None else self._total
        return counts + (total - own)

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Count the forward passes made within, all those of the global batch to come."""
        self._ahead = []
        yield
        self._total = _over_processes(torch.stack(self._ahead).sum(0))
        self._ahead = None


def _over_processes(counts: Tensor) -> Tensor:
    if not torch.distributed.is_initialized():
        return counts
    total = counts.clone()
    torch.distributed.all_reduce(total)
    return total
