"""Computes validation losses, and the number of losses since the best one."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

from xft.common.gpus import computed_on
from xft.common.progress import progress
from xft.data.tokenized_rows import IGNORED
from xft.training.batches import padded
from xft.training.curve import VALIDATION_LOSS
from xft.training.losses import LabelledLoss
from xft.training.processes import over_processes
from xft.training.this_process import is_main_process

BATCH_ROWS = 8
MakeBatch = Callable[[list[dict]], dict]  # the model's inputs, on its device, from some rows


@torch.no_grad()
def validation_loss(
    model, loss: LabelledLoss, rows: list[dict], make: MakeBatch, batch_size: int
) -> float:
    """The mean cross-entropy over the response tokens of all rows, the same in each process.

    The model is in evaluation mode. The balance loss is left out, and no random number is drawn.
    Each process takes its share of the rows, in the same number of batches as the others, because
    all processes of a sharded model compute together. loss: the model's.
    """
    sums = _losses_and_tokens(model, loss, _share(rows), make, batch_size)
    lost, tokens = over_processes(sums.sum(dim=0)).tolist()
    return lost / tokens


@torch.no_grad()
def row_losses(model, loss: LabelledLoss, rows: list[dict], tokenizer) -> dict:
    """The loss, and the loss and the number of response tokens of each row, in order.

    As `validation_loss`, but in one process, and in batches that do not depend on the training: so
    the same weights give the same bytes wherever they are measured.
    """
    collate = padded(tokenizer)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    order = lengths.argsort(descending=True, stable=True)
    ordered = [rows[number] for number in order]
    given = ordered, lambda some: collate(some).to(model.device), BATCH_ROWS
    sums = _losses_and_tokens(model, loss, *given)[order.argsort()]
    total, tokens = sums.sum(dim=0).tolist()
    by_row = [{"loss": lost / count, "tokens": int(count)} for lost, count in sums.tolist()]
    return {"rows": by_row, "loss": total / tokens, **computed_on(model)}


@dataclass
class ArtifactLosses:
    """The validation losses of the artifact that a training makes, measured at its end.

    dtype: of all weights of the artifact.
    tokenizer: the model's.
    content: as `row_losses` gives it; None before the end.
    """

    dtype: torch.dtype
    tokenizer: object
    content: dict | None = None

    @torch.no_grad()
    def measure(self, model, loss: LabelledLoss, rows: list[dict]) -> float:
        """Round the weights of the model to those of the artifact. Then measure their loss."""
        for parameter in model.parameters():
            parameter.copy_(parameter.to(self.dtype))
        self.content = row_losses(model, loss, rows, self.tokenizer)
        return self.content["loss"]


def validations_since_best(history: list[dict]) -> int:
    """The number of validation losses after the lowest one (the first of equal ones).

    history: what the Trainer has logged.
    """
    losses = [entry[VALIDATION_LOSS] for entry in history if VALIDATION_LOSS in entry]
    return len(losses) - 1 - losses.index(min(losses))


def _losses_and_tokens(
    model, loss: LabelledLoss, rows: list[dict], make: MakeBatch, batch_size: int
) -> Tensor:
    """The sum of losses and the number of response tokens of each row of the batches, fp64 [n, 2].

    The model is put into evaluation mode. A packed batch is one row.
    """
    model.eval()
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    sums = [
        _loss_and_tokens(model, loss, make(batch))
        for batch in progress(batches, desc="validate", unit="batch", disable=not is_main_process())
    ]
    return torch.cat(sums)


def _loss_and_tokens(model, loss: LabelledLoss, batch: dict) -> Tensor:
    """The sum of the losses of each row of a batch, and its response tokens, fp64 [rows, 2]."""
    inputs = {key: value for key, value in batch.items() if key != "row"}
    model(**inputs, **loss.options(batch["labels"]))
    is_labelled = batch["labels"][:, 1:] != IGNORED
    losses = torch.zeros_like(is_labelled, dtype=torch.float64)
    losses[is_labelled] = loss.parts.double()
    return torch.stack([losses.sum(dim=1), is_labelled.sum(dim=1).double()], dim=1)


def _share(rows: list[dict]) -> list[dict]:
    """This process's rows, long ones first. Rows without labels make all shares equally long."""
    rows = sorted(rows, key=lambda row: len(row["input_ids"]), reverse=True)
    if not torch.distributed.is_initialized():
        return rows
    processes = torch.distributed.get_world_size()
    empty = rows[-1] | {"labels": [IGNORED] * len(rows[-1]["labels"])}
    rows += [empty] * (-len(rows) % processes)
    return rows[torch.distributed.get_rank() :: processes]
