"""The balance loss over the whole global batch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from xft.training.features import Feature
from xft.training.processes import over_processes


class GlobalBalance(Feature):
    """Turns the importance and load of a micro-batch into the sums over the global batch.

    Only the micro-batch's own part of a sum has a gradient. So each forward pass gives its part of
    the gradient, and the parts of all micro-batches add up to the exact one. If gradients are
    accumulated, all batches of a step are counted before its first pass, with the noise of the
    passes that follow.

    model: an upcycled one.
    accumulates: whether a step may have several batches.
    """

    def __init__(self, model, accumulates: bool):
        model.complete_counts = self
        self.accumulates = accumulates
        self._ahead: list[Tensor] | None = None
        self._total: Tensor | None = None

    def __call__(self, counts: Tensor) -> Tensor:
        """The global batch's counts [layers, 2, R], from those of one forward pass."""
        if self._ahead is not None:
            self._ahead.append(counts.detach())
            return counts
        constant = counts.detach()
        total = over_processes(constant) if self._total is None else self._total
        return counts + (total - constant)

    def on_batches(self, batches, rows):
        self.uncounted = batches if self.accumulates else []

    @torch.no_grad()
    def on_pass(self, model, inputs):
        if not self.uncounted:
            return
        device = inputs["input_ids"].device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices), self.ahead():
            for batch in self.uncounted:
                unlabelled = {key: value for key, value in batch.items() if key != "labels"}
                model(**unlabelled, output_router_logits=True, logits_to_keep=1)
        self.uncounted = []

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Count the forward passes inside the block, which must be all of the next global batch."""
        self._ahead = []
        yield
        self._total = over_processes(torch.stack(self._ahead).sum(0))
        self._ahead = None
