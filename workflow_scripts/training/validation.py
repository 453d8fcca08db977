"""Computes the loss on held-out rows, and the number of losses since the best one."""

from collections.abc import Callable

import torch
import torch.distributed
from torch import Tensor
from transformers import TrainerState

from workflow_scripts.common.progress import progress
from workflow_scripts.data.examples import IGNORED

VALIDATION_LOSS = "validation_loss"


@torch.no_grad()
def validation_loss(
    model,
    rows: list[dict],
    collate: Callable[[list[dict]], dict],
    batch_size: int,
    prepare: Callable[[dict], dict],
    silent: bool = False,
) -> float:
    """The mean cross-entropy over the response tokens of all rows, the same in each process.

    The model is in evaluation mode. The balance loss is left out, and no random number is drawn.
    Each process takes its share of the rows, in the same number of batches as the others, because
    all processes of a sharded model compute together. prepare: moves a batch to the device. silent:
    show no progress.
    """
    model.eval()
    share = _share(rows)
    batches = [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
    sums = [
        _loss_and_tokens(model, prepare(collate(batch)))
        for batch in progress(batches, desc="validate", unit="batch", disable=silent)
    ]
    total = torch.stack(sums).sum(dim=0)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    loss, tokens = total.tolist()
    return loss / tokens


def validations_since_best(state: TrainerState) -> int:
    """The number of validation losses after the lowest one (the first of equal ones)."""
    losses = [entry[VALIDATION_LOSS] for entry in state.log_history if VALIDATION_LOSS in entry]
    return len(losses) - 1 - losses.index(min(losses))


def _loss_and_tokens(model, batch: dict) -> Tensor:
    """The sum of a batch's losses and the number of its response tokens, fp64 [2]."""
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "row")}
    labels = batch["labels"][:, 1:].flatten()
    logits = model(**inputs).logits[:, :-1].flatten(0, 1)
    losses = torch.nn.functional.cross_entropy(
        logits.float(), labels, ignore_index=IGNORED, reduction="none"
    )
    return torch.stack([losses.double().sum(), (labels != IGNORED).sum().double()])


def _share(rows: list[dict]) -> list[dict]:
    """This process's rows, long ones first. Rows without labels make all shares equally long."""
    rows = sorted(rows, key=lambda row: len(row["input_ids"]), reverse=True)
    if not torch.distributed.is_initialized():
        return rows
    processes = torch.distributed.get_world_size()
    empty = rows[-1] | {"labels": [IGNORED] * len(rows[-1]["labels"])}
    rows += [empty] * (-len(rows) % processes)
    return rows[torch.distributed.get_rank() :: processes]
