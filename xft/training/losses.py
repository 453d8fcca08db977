"""The loss of labelled tokens, and validation losses. Logits of other tokens are not computed.

A model calls `LabelledLoss` as its `loss_function`, so in its own forward pass, where autocast, DDP
and FSDP expect the head to run. The loss takes the labelled tokens in chunks. It computes a chunk's
logits, losses and gradient at once, and keeps only the gradient of the chunk's hidden states and
the sum of the gradients of the head's weight. So the logits of one chunk are in memory, and none is
computed twice. Their softmax in fp32 and its gradient are computed for a block of tokens at a time.
On a CPU a block fits the cache.

This needs the whole weight of the head. ZeRO-3 gathers a weight only while the model calls its
module. There the model computes the logits itself, in one piece, at the positions where some row of
the batch has a label.

torch's linear_cross_entropy (2.13) is not used. On a CPU, in chunks of 512 tokens of width 576 and
49,152 words, it takes 0.8 times the time in fp32, but 1.8 times in bf16. It computes in fp32 under
autocast, and knows no caps and factors of a head. So both ways would have to stay.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from xft.common.gpus import computed_on
from xft.common.progress import progress
from xft.config.training import BLOCK_LOGITS, CHUNK_TOKENS
from xft.data.tokenized_rows import IGNORED
from xft.training.at_end import VALIDATION_LOSS
from xft.training.batches import padded
from xft.training.ranks import is_main_process, over_processes

BATCH_ROWS = 8  # of `row_losses`
MakeBatch = Callable[[list[dict]], dict]  # the model's inputs, on its device, from some rows


class SplitModel:
    """A causal language model whose head can be called alone.

    The head is a copy of the model that shares its modules, but for the decoder, which
    `_GivenStates` replaces. So transformers' own forward computes the logits, with its caps and
    factors, from hidden states. A hook keeps those of the model's last forward pass.
    """

    def __init__(self, model: PreTrainedModel):
        self._head = copy.copy(model)
        self._head._modules = model._modules | {model.base_model_prefix: _GivenStates()}
        self._forward = inspect.unwrap(type(model).forward)  # neither a mixture's nor accelerate's
        self._states: Tensor | None = None
        model.get_decoder().register_forward_hook(self._keep_states)

    def logits(self, states: Tensor) -> Tensor:
        """The logits [n, V] of hidden states [n, H]."""
        # The gradient of `logits[0]` would be copied.
        return self._forward(self._head, inputs_embeds=states[None]).logits.squeeze(0)

    def learning(self) -> list[nn.Parameter]:
        """The parameters of the head that learn."""
        return [parameter for parameter in self._head.parameters() if parameter.requires_grad]

    def take_states(self) -> Tensor:
        """The hidden states [rows, T, H] of the last forward pass. They are then forgotten."""
        states = self._states
        self._states = None
        return states

    def _keep_states(self, decoder, inputs, output) -> None:
        self._states = output.last_hidden_state


class _GivenStates(nn.Module):
    """A decoder whose inputs are the hidden states."""

    def forward(self, *_, inputs_embeds: Tensor, **__) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)


class LabelledLoss:
    """The loss function of a model: the cross-entropy of its labelled tokens.

    whole_head: false if the head's weight is whole only while the model calls it.
    parts: of the last batch, fp32 [tokens], the cross-entropy of each labelled token, first row
    first.
    """

    def __init__(self, model: PreTrainedModel, whole_head: bool = True):
        self.split = SplitModel(model) if whole_head else None
        self.parts: Tensor | None = None
        model.loss_function = self

    def options(self, labels: Tensor) -> dict[str, Tensor]:
        """Inputs of the model's forward pass beside a batch with these labels [rows, T]."""
        if self.split is not None:
            return {"logits_to_keep": labels.new_empty(0)}
        following = _following(labels)
        kept = (following != IGNORED).any(dim=0).nonzero()[:, 0]
        return {"logits_to_keep": kept, "shift_labels": following[:, kept]}

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        vocab_size: int,
        num_items_in_batch: Tensor | int | None = None,
        shift_labels: Tensor | None = None,
        **_,
    ) -> Tensor:
        """The sum over the labelled tokens / num_items_in_batch, or their mean; fp32 [].

        labels [rows, T]; shift_labels: those of the positions that have logits [rows, P, V].
        """
        following = _following(labels)
        states = logits
        parameters = []
        if self.split is not None:
            states = self.split.take_states()
            parameters = self.split.learning()
        places = _places(following)  # a GPU is waited for
        with_logits = places if shift_labels is None else _places(shift_labels)
        states = states.flatten(0, 1).index_select(0, with_logits)
        targets = following.flatten()[places]
        learns = torch.is_grad_enabled() and (states.requires_grad or bool(parameters))
        total, self.parts = _ChunkedSum.apply(self, learns, targets, states, *parameters)
        return total / (len(self.parts) if num_items_in_batch is None else num_items_in_batch)

    def parts_of(self, states: Tensor, targets: Tensor) -> Tensor:
        """`parts` of a chunk, without gradients. See `gradients_of`."""
        blocks = self._blocks(self._logits(states), targets)
        return torch.cat([_entropies(*block) for block in blocks])

    def gradients_of(
        self, parameters: Sequence[nn.Parameter], states: Tensor, targets: Tensor
    ) -> list[Tensor]:
        """`parts` of a chunk, and the gradients of their sum for states and parameters.

        states [t, H], or logits [t, V] without a whole head. targets [t].
        """
        with torch.enable_grad():
            states = states.detach().requires_grad_()
            logits = self._logits(states)
        gradient = torch.empty_like(logits)
        parts = []
        done = 0  # tokens
        for block, wanted in self._blocks(logits.detach(), targets):
            with torch.enable_grad():
                block = block.detach().requires_grad_()
                part = _entropies(block, wanted)
                loss = part.sum()
            parts.append(part.detach())
            (gradient[done : done + len(block)],) = torch.autograd.grad(loss, block)
            done += len(block)
        gradients = torch.autograd.grad(logits, (states, *parameters), gradient)
        return [torch.cat(parts), *gradients]

    def _logits(self, states: Tensor) -> Tensor:
        return states if self.split is None else self.split.logits(states)

    def _blocks(self, logits: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits and targets of some tokens at a time."""
        tokens = max(1, BLOCK_LOGITS[logits.is_cuda] // logits.shape[1])
        return zip(logits.split(tokens), targets.split(tokens), strict=True)


def _entropies(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each token, fp32 [t]: logits [t, V], targets [t]."""
    logs = logits.float().log_softmax(dim=-1)
    return nn.functional.nll_loss(logs, targets, reduction="none")


def _following(labels: Tensor) -> Tensor:
    """At each position the label of the next one, [rows, T]."""
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def _places(labels: Tensor) -> Tensor:
    """The places [n] of the labels that count, in the flat [rows T] of labels [rows, T]."""
    return (labels != IGNORED).flatten().nonzero()[:, 0]


class _ChunkedSum(torch.autograd.Function):
    """The sum [] of a loss's parts [n], and these parts, fp32.

    states, targets: of n tokens, for `LabelledLoss.gradients_of`, a chunk at a time. The forward
    pass computes the sum's gradient for the states and for `parameters`, and the backward pass
    scales it, once. The parameters' gradients are summed in fp32.
    learns: whether a backward pass follows.
    """

    @staticmethod
    def forward(ctx, loss, learns, targets, states, *parameters):
        chunks = zip(states.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True)
        if not learns:
            parts = torch.cat([loss.parts_of(*chunk) for chunk in chunks])
            return parts.sum(), parts
        parts = []
        gradients = []  # of the chunks' states
        sums = None  # of the gradients of the parameters
        for chunk in chunks:
            part, gradient, *terms = loss.gradients_of(parameters, *chunk)
            parts.append(part)
            gradients.append(gradient)
            sums = terms if sums is None else _added(sums, terms)
            del terms  # a head's weight is large
        parts = torch.cat(parts)
        ctx.mark_non_differentiable(parts)
        ctx.save_for_backward(torch.cat(gradients), *sums)
        ctx.dtypes = [parameter.dtype for parameter in parameters]
        return parts.sum(), parts

    @staticmethod
    @once_differentiable
    def backward(ctx, scale, _):
        gradients, *sums = ctx.saved_tensors
        scaled = [term.mul_(scale).to(dtype) for term, dtype in zip(sums, ctx.dtypes, strict=True)]
        return None, None, None, scale * gradients, *scaled


def _added(sums: list[Tensor], terms: list[Tensor]) -> list[Tensor]:
    """The sums with the terms added, in fp32. They may overwrite the sums."""
    return [total.float().add_(term) for total, term in zip(sums, terms, strict=True)]


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

    def make_batch(some: list[dict]) -> dict:
        return collate(some).to(model.device)

    sums_of_ordered = _losses_and_tokens(model, loss, ordered, make_batch, BATCH_ROWS)
    sums = sums_of_ordered[order.argsort()]
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
    shown = progress(batches, desc="validate", unit="batch", disable=not is_main_process())
    return torch.cat([_loss_and_tokens(model, loss, make(batch)) for batch in shown])


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
