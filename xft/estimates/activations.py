"""Bytes of the tensors that autograd keeps from the forward pass for the backward pass.

The counts come from transformers' Llama (`modeling_llama.py`), this project's blocks (`modeling/`)
and torch's scaled_dot_product_attention, which keeps no matrix of attention probabilities. Other
backbones differ by one or two norms.

Symbols: T tokens of a micro-batch (B rows of length L, with padding), H hidden size, I intermediate
size, V size of the vocabulary, Q and K widths of queries and keys, R routed experts, k of them
chosen, c and r bytes of a value in the projections and in the residual stream.
"""

import re
from dataclasses import dataclass

from xft.config.training import BLOCK_LOGITS, CHUNK_TOKENS
from xft.estimates.parameters import Models
from xft.estimates.tensors import Heads

FP32, INT64 = 4, 8
QUERY_NORM = re.compile(r"\.(q_norm|q_layernorm|query_layernorm)\.")


@dataclass(frozen=True)
class Numbers:
    """Bytes of a value in the projections and in the residual stream.

    autocast: weights and residual stream are fp32, and projections bf16.
    """

    compute: int
    residual: int

    @property
    def autocast(self) -> bool:
        return self.compute != self.residual

    def inputs(self, projections: int) -> int:
        """Copies of an input for these projections. Autocast makes one for each projection."""
        return projections if self.autocast else 1


@dataclass(frozen=True)
class Batch:
    """A micro-batch whose rows all fill the window: no other batch needs more memory.

    If there are several rows, one has a token of padding, so that there is an attention mask.
    """

    rows: int
    length: int

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def masked(self) -> bool:
        return self.rows > 1


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps.

    layers: of each decoder layer. ends: of the parts before and after the layers, with the gradient
    of the head's weight. logits: what the loss needs for a short time. working: what the backward
    pass of a layer needs beyond what it frees. boundary: the input of one layer.
    """

    layers: list[int]
    ends: int
    logits: int
    working: int
    boundary: int

    def at_once(self, checkpointing: bool) -> int:
        """The maximum at one moment. Without checkpointing it is the start of the backward pass.

        checkpointing: autograd keeps the inputs of all layers, and the activations of one layer.
        """
        if not checkpointing:
            return sum(self.layers) + self.ends + max(self.logits, self.working)
        kept = len(self.layers) * self.boundary + self.ends
        return kept + max(self.logits, max(self.layers) + self.working)


def tuning(
    models: Models, batch: Batch, numbers: Numbers, whole_head: bool = True, on_gpu: bool = False
) -> Activations:
    """Activations of step 2, in which everything learns, or with low-rank experts a part of it.

    whole_head: whether the loss computes the head in chunks; see `training/losses.py`.
    """
    hidden, intermediate = _sizes(models)
    tokens, frozen = batch.tokens, models.is_low_rank and models.moe.train_rest == "frozen"
    rest = (_frozen_rest if frozen else _learning_rest)(models, batch, numbers)
    dense = _mlp(tokens, hidden, intermediate, models, numbers)
    mixture_of = _low_rank_mixture if models.is_low_rank else _mixture
    mixture = mixture_of(tokens, hidden, intermediate, models, numbers)
    upcycled = {layer.prefix for layer in models.upcycled}
    layers = [
        rest.around + (mixture if layer.prefix in upcycled else dense) for layer in models.layers
    ]
    if frozen:  # nothing is kept before the first mixture
        first = models.layers.index(models.upcycled[0])
        layers[: first + 1] = [0] * first + [mixture]
    return Activations(
        layers=layers,
        ends=rest.ends + _loss(models, batch, numbers, whole_head),
        logits=_logits(models, batch, numbers, whole_head, on_gpu),
        working=_working(tokens, hidden, intermediate, models, numbers),
        boundary=tokens * hidden * numbers.residual,
    )


def mixing(models: Models, batch: Batch, numbers: Numbers, on_gpu: bool = False) -> Activations:
    """Activations of step 6, in which only the merged MLPs have gradients.

    Nothing is kept before the first MLP.
    """
    hidden, intermediate = _sizes(models)
    tokens, rest = batch.tokens, _frozen_rest(models, batch, numbers)
    mlp = _mlp(tokens, hidden, intermediate, models, numbers)
    return Activations(
        layers=[mlp] + [rest.around + mlp] * (len(models.layers) - 1),
        ends=rest.ends + tokens * (hidden * numbers.residual + INT64),
        logits=chunk_bytes(models, batch, numbers, on_gpu),
        working=2 * tokens * intermediate * numbers.compute,
        boundary=tokens * hidden * numbers.residual,
    )


@dataclass(frozen=True)
class _Rest:
    """Bytes of a layer outside its MLP, and of the parts around the layers, without the loss."""

    around: int
    ends: int


def _learning_rest(models: Models, batch: Batch, numbers: Numbers) -> _Rest:
    """All of it learns."""
    heads, (hidden, _) = models.base.heads, _sizes(models)
    tokens = batch.tokens
    norm = tokens * hidden * (FP32 + numbers.residual)  # input in fp32, normalised input
    around = 2 * norm
    around += numbers.inputs(3) * tokens * hidden * numbers.compute  # inputs for q, k and v
    around += _attention(heads, batch, numbers)
    if any(QUERY_NORM.search(name) for name in models.base.names):
        width = (heads.query + heads.key) * heads.size
        around += tokens * width * (FP32 + numbers.residual)
    return _Rest(around, norm + _rope(heads, batch, numbers))


def _frozen_rest(models: Models, batch: Batch, numbers: Numbers) -> _Rest:
    """None of it learns: norms and projections keep no input for their weights' gradients."""
    heads, (hidden, _) = models.base.heads, _sizes(models)
    around = 2 * batch.tokens * hidden * FP32 + _attention(heads, batch, numbers)
    return _Rest(around, batch.tokens * hidden * FP32 + _rope(heads, batch, numbers))


def chunk_bytes(models: Models, batch: Batch, numbers: Numbers, on_gpu: bool) -> int:
    """Bytes for a chunk's logits and their gradient, and for a block of the chunk in fp32.

    The block has the log-softmax, its gradient and that of its input.
    """
    logits = min(batch.tokens, CHUNK_TOKENS) * models.base.config["vocab_size"]
    return 2 * logits * numbers.compute + 3 * FP32 * min(logits, BLOCK_LOGITS[on_gpu])


def _loss(models: Models, batch: Batch, numbers: Numbers, whole_head: bool) -> int:
    """Bytes that the loss keeps if every token has a label: places and gradients.

    The gradients are those of the hidden states, and of the head's weight if it learns: in fp32 if
    it is the sum of several chunks'. Without a whole head they are those of the logits, and the
    head keeps its input.
    """
    tokens, hidden = batch.tokens, models.base.config["hidden_size"]
    if whole_head:
        of_head = _head_gradient(models, FP32 if tokens > CHUNK_TOKENS else numbers.residual)
        return tokens * (hidden * numbers.residual + INT64) + of_head
    vocabulary = models.base.config["vocab_size"]
    return tokens * ((hidden + vocabulary) * numbers.compute + INT64)


def _logits(models: Models, batch: Batch, numbers: Numbers, whole_head: bool, on_gpu: bool) -> int:
    """Bytes that the loss needs for a short time.

    These are a chunk's logits, and either its gradient of the head's weight, or the logits of all
    tokens, those with a label, and the scaled gradient.
    """
    chunk = chunk_bytes(models, batch, numbers, on_gpu)
    if whole_head:
        return chunk + _head_gradient(models, FP32)
    return chunk + 3 * batch.tokens * models.base.config["vocab_size"] * numbers.compute


def _head_gradient(models: Models, nbytes: int) -> int:
    return nbytes * models.head if models.learns_rest else 0


def _sizes(models: Models) -> tuple[int, int]:
    """H and I."""
    layer = models.layers[0]
    return models.base.shape(layer.dense(layer.form.output))


def _attention(heads: Heads, batch: Batch, numbers: Numbers) -> int:
    """Bytes for queries, keys, values and output, and each row's log-sum-exp in fp32.

    With a mask, keys and values are repeated for all query heads, and the mask is kept as numbers.
    """
    query, key = heads.query * heads.size, heads.key * heads.size
    if batch.masked:
        key = query
    saved = batch.tokens * ((2 * query + 2 * key) * numbers.compute + heads.query * FP32)
    if batch.masked:
        saved += batch.tokens * batch.length * numbers.compute
    return saved


def _mlp(tokens: int, hidden: int, intermediate: int, models: Models, numbers: Numbers) -> int:
    """Bytes for input, gate, up, act(gate) and their product; without a gate, up and act(up)."""
    form = models.layers[0].form
    copies = numbers.inputs(len(form.inputs))
    inner = 4 if form.gated else 2
    return tokens * (copies * hidden + inner * intermediate) * numbers.compute


def _mixture(tokens: int, hidden: int, intermediate: int, models: Models, numbers: Numbers) -> int:
    """Bytes for the routed experts' inputs, inner values and outputs, shared expert and router."""
    chosen, inner = models.chosen, 4 if models.layers[0].form.gated else 2
    values = chosen * (2 * hidden + inner * intermediate)
    if models.moe.shared_expert:
        shared = _mlp(tokens, hidden, intermediate, models, numbers)
        values += hidden  # its output, for the gradient of its weight in the mixture
    else:
        shared = tokens * hidden * numbers.compute  # the router's input
    if numbers.autocast:  # the inputs of the router and of its noise
        values += (1 + models.moe.router_noise) * hidden
    return shared + tokens * (values * numbers.compute + _router(models))


def _low_rank_mixture(
    tokens: int, hidden: int, intermediate: int, models: Models, numbers: Numbers
) -> int:
    """Bytes for the inputs, the base's inner values, A x of every expert, and the router.

    The backward pass computes the experts' own inner values again, some tokens at a time.
    """
    copies = numbers.inputs(len(models.layers[0].form.inputs) + 1 + models.moe.router_noise)
    values = copies * hidden + _low_rank_values(intermediate, models)
    weights = FP32 * models.moe.num_experts
    return tokens * (values * numbers.compute + weights + _router(models))


def _low_rank_values(intermediate: int, models: Models) -> int:
    """The number of a token's values of the base's input projections, and of A x of all experts."""
    form, inner = models.layers[0].form, 2 if models.layers[0].form.gated else 1
    return inner * intermediate + len(form.projections) * models.moe.num_experts * models.moe.rank


def _working(tokens: int, hidden: int, intermediate: int, models: Models, numbers: Numbers) -> int:
    """Bytes of the gradients in a layer's backward pass.

    Full experts: two tensors of the routed experts' rows. Low-rank experts: the gradients of what
    is kept and of the summed inner values, and of one expert, which may compute all tokens, its
    inner values and their gradients.
    """
    if not models.is_low_rank:
        return 2 * tokens * models.chosen * (intermediate + hidden) * numbers.compute
    own = (8 if models.layers[0].form.gated else 4) * intermediate
    values = own + _low_rank_values(intermediate, models)
    return tokens * (values * numbers.compute + FP32 * intermediate)


def _router(models: Models) -> int:
    """Bytes for each token: probabilities, choices with their places, and values for the noise."""
    routed, chosen = models.routed, models.chosen
    saved = FP32 * (2 * routed + 3 * chosen + 1) + INT64 * (3 * chosen + 1)
    if models.moe.router_noise:
        saved += (5 * FP32 + 1) * routed + INT64 * (chosen + 1)
    return saved


def _rope(heads: Heads, batch: Batch, numbers: Numbers) -> int:
    return 2 * batch.length * heads.size * numbers.compute
