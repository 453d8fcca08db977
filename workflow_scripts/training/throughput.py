"""Tokens per second, and the share of the time in which a training waits for its data."""

import time
from collections.abc import Iterator

import torch
import torch.distributed


class Throughput:
    """Tokens of all processes and times of this one, from the first batch on."""

    def __init__(self):
        self._began: float | None = None
        self._waited = 0.0
        self._counts: torch.Tensor | int = 0  # real tokens, and those with padding

    def timed(self, batches: Iterator[dict]) -> Iterator[dict]:
        """The batches; the time that they take to come is noted."""
        while True:
            asked = time.perf_counter()
            self._began = asked if self._began is None else self._began
            batch = next(batches, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def count(self, batches: list[dict]) -> None:
        """Count the tokens of an optimiser step's batches. All processes call this."""
        ids = [batch["input_ids"] for batch in batches]
        real = sum(
            batch["attention_mask"].sum() if "attention_mask" in batch else batch_ids.numel()
            for batch, batch_ids in zip(batches, ids, strict=True)
        )
        counts = torch.as_tensor([0, sum(map(torch.numel, ids))], device=ids[0].device)
        counts[0] = real
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
        self._counts = self._counts + counts

    @property
    def tokens_per_second(self) -> float:
        """Real tokens of all processes, without padding."""
        return float(self._counts[0]) / (time.perf_counter() - self._began)

    def summary(self) -> str:
        real, padded = self._counts.tolist()
        elapsed = time.perf_counter() - self._began
        return (
            f"{real} tokens in {elapsed:.1f} s, {real / elapsed:.0f} a second, and "
            f"{1 - real / padded:.1%} of the batches padding; "
            f"{self._waited / elapsed:.1%} of the time waited for data"
        )
