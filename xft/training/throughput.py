"""Counts a training's tokens, and measures how many it computes in a second."""

import time

import torch

from xft.training.processes import over_processes


class Throughput:
    """Tokens of all processes, and the time from the first batch on."""

    def __init__(self):
        self._began: float | None = None
        self._counts = torch.zeros(2, dtype=torch.long)  # real tokens, and those with padding

    def count(self, batches: list[dict]) -> None:
        """Count the tokens of the optimiser step that begins. All processes call this."""
        self._began = self._began or time.perf_counter()
        counts = over_processes(torch.stack([_counts(batch) for batch in batches]).sum(0))
        self._counts = self._counts.to(counts.device) + counts

    @property
    def tokens(self) -> int:
        """Real tokens of all processes, without padding."""
        return int(self._counts[0])

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def padding(self) -> float:
        """The share of padding in the batches."""
        return 1 - self.tokens / int(self._counts[1])

    def summary(self) -> str:
        speed = f"{self.seconds:.0f} s, {self.tokens_per_second:.0f} a second"
        return f"{self.tokens} tokens in {speed}, {self.padding:.1%} of the batches is padding"


def _counts(batch: dict) -> torch.Tensor:
    """Real tokens and all tokens of a batch, [2], on the batch's device."""
    ids = batch["input_ids"]
    real = batch.get("attention_mask", torch.ones_like(ids)).sum()
    return torch.stack([real, torch.full_like(real, ids.numel())])
