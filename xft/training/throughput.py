"""Measures tokens per second, and the share of the time that a training waits for data."""

import time
from collections.abc import Iterator

import torch
import torch.distributed


class Throughput:
    """Tokens of all processes and times of this process, from the first batch on.

    waited: the seconds that this process waited for batches.
    """

    def __init__(self):
        self.waited = 0.0
        self._began: float | None = None
        self._counts = torch.zeros(2, dtype=torch.long)  # real tokens, and those with padding

    def timed(self, batches: Iterator[dict]) -> Iterator[dict]:
        """Pass the batches on, and add the time that each takes to `waited`."""
        while True:
            asked = time.perf_counter()
            self._began = asked if self._began is None else self._began
            batch = next(batches, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def count(self, batches: list[dict]) -> None:
        """Count the tokens of an optimiser step's batches. All processes call this."""
        counts = torch.stack([_counts(batch) for batch in batches]).sum(0)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
        self._counts = self._counts.to(counts.device) + counts

    @property
    def tokens(self) -> int:
        """Real tokens of all processes, without padding."""
        return int(self._counts[0])

    @property
    def padding(self) -> float:
        """The share of padding in all tokens."""
        return 1 - self.tokens / int(self._counts[1])

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def summary(self) -> str:
        return (
            f"{self.tokens} tokens in {self.seconds:.1f} s, {self.tokens_per_second:.0f} a second, "
            f"{self.padding:.1%} of the batches is padding, "
            f"{self.waited / self.seconds:.1%} of the time was waiting for data"
        )


def _counts(batch: dict) -> torch.Tensor:
    """Real tokens and all tokens of a batch, [2], on the batch's device."""
    ids = batch["input_ids"]
    real = batch.get("attention_mask", torch.ones_like(ids)).sum()
    return torch.stack([real, torch.full_like(real, ids.numel())])
