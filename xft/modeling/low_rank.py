"""LoRA experts: the base's MLP, which no expert changes, with a low-rank change of its own for
each of them.

Expert i has W_i = W + s B_i A_i for each projection, with s = lora_alpha / rank (LoRA, arXiv
2106.09685). With routing weights w_i, which include the shared expert's w_0, a gated MLP gives
    h_i = act(W_g x + s B_g,i A_g,i x) * (W_u x + s B_u,i A_u,i x)
    y = W_d sum_i w_i h_i + s sum_i w_i B_d,i A_d,i h_i + b_d sum_i w_i.
So the base's products are computed once for each token, for any number of experts (MixLoRA,
arXiv 2404.15159, shares all but the last one).

Symbols: T tokens, E experts with the shared one, r rank, H hidden and I intermediate size, N and K
the outputs and inputs of a projection.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from xft.modeling.experts import as_autocast
from xft.modeling.mlp import MlpShape
from xft.modeling.moe import RoutedBlock, TokenMask
from xft.modeling.router import Routing

# Of one intermediate tensor of a block of tokens, on a GPU and (True) on a CPU. On a CPU a few of
# them stay in the cache.
BLOCK_BYTES = {False: 2**28, True: 2**20}


class Factors(nn.Module):
    """The low-rank changes of one projection: lora_A [E, r, K] and lora_B [E, N, r]."""

    def __init__(self, num_experts: int, rank: int, inputs: int, outputs: int):
        super().__init__()
        self.lora_A = nn.Parameter(torch.empty(num_experts, rank, inputs))
        self.lora_B = nn.Parameter(torch.empty(num_experts, outputs, rank))

    def reduce(self, tokens: Tensor) -> Tensor:
        """A_i x of all experts, for tokens [T, K]: [T, E, r]."""
        experts, rank, _ = self.lora_A.shape
        return nn.functional.linear(tokens, self.lora_A.flatten(0, 1)).view(-1, experts, rank)

    def expand_sum(self, reduced: Tensor) -> Tensor:
        """sum_i B_i z_i, for reduced [T, E, r]: [T, N]."""
        return nn.functional.linear(reduced.flatten(1), self.lora_B.transpose(0, 1).flatten(1))


class LowRankExperts(nn.ModuleDict):
    """The factors of all experts, by the names of the MLP's projections."""

    def __init__(self, shape: MlpShape, num_experts: int, rank: int):
        form, hidden, intermediate = shape.form, shape.hidden_size, shape.intermediate_size
        width = intermediate * (1 + form.gated) // len(form.inputs)
        factors = {name: Factors(num_experts, rank, hidden, width) for name in form.inputs}
        factors[form.output] = Factors(num_experts, rank, intermediate, hidden)
        super().__init__(factors)


class LowRankBlock(RoutedBlock):
    """An MLP whose experts, the shared one included, are low-rank changes of it."""

    def __init__(self, config, mlp: nn.Module, token_mask: TokenMask):
        super().__init__(config, mlp, token_mask)
        self.dense = mlp
        self.experts = LowRankExperts(self.shape, config.num_experts, config.rank)
        self.scale = config.lora_alpha / config.rank

    def compute(self, tokens: Tensor, routing: Routing) -> Tensor:
        """The weighted sum of the chosen experts' outputs, for tokens [T, H]: [T, H]."""
        chosen, weights = routing.spread()
        form = self.shape.form
        inner = [getattr(self.dense, name)(tokens) for name in form.inputs]
        factors = [self.experts[name] for name in form.inputs]
        reduced = [self.scale * each.reduce(tokens) for each in factors]
        output, last = getattr(self.dense, form.output), self.experts[form.output]
        own = [as_autocast(tensor) for tensor in (last.lora_A, *(each.lora_B for each in factors))]
        hidden, left = weighted_hidden(self.activate, chosen, [weights, *reduced], own, inner)
        result = nn.functional.linear(hidden, output.weight) + self.scale * last.expand_sum(left)
        if output.bias is not None:
            result = result + weights.sum(1, keepdim=True) * output.bias
        return result

    def activate(self, *given: Sequence[Tensor]) -> Tensor:
        """h of one expert, for t tokens: [t, I].

        given, for each input projection: W x + b [t, N]; s A x [t, r]; B [N, r].
        """
        parts = zip(*given, strict=True)
        sums = [torch.addmm(wide, low, factor.t()) for wide, low, factor in parts]
        if not self.shape.form.gated:
            return self.shape.act_fn(*sums)
        gate, up = sums if len(sums) == 2 else sums[0].chunk(2, dim=1)
        return self.shape.act_fn(gate) * up


@torch.compiler.disable
def weighted_hidden(
    activate: Callable[..., Tensor],
    chosen: Tensor,
    by_both: Sequence[Tensor],
    by_expert: Sequence[Tensor],
    by_token: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """sum_i w_i h_i [T, I], and w_i A_d,i h_i of all experts [T, E, r], zero if i is not chosen.

    activate: `LowRankBlock.activate`. chosen [T, E] bool. by_both: the weights
    [T, E], and s A x [T, E, r] for each input projection. by_expert: A_d [E, r, I], and B [E, N, r]
    for each input projection. by_token: W x + b [T, N] for each input projection.

    The first sum is computed in fp32 or more, and rounded once. torch.compile skips this function:
    it would compile again for each new number of an expert's tokens.
    """
    with torch.autocast(chosen.device.type, enabled=False):
        return WeightedHidden.apply(activate, chosen, *by_both, *by_expert, *by_token)


class WeightedHidden(Function):
    """`weighted_hidden`. Each expert computes a block of its tokens at a time.

    So the k T I values of all h_i are never in memory. The backward pass computes them again.
    """

    @staticmethod
    def forward(ctx, activate, chosen, *tensors):
        ctx.save_for_backward(*tensors)
        (weights, *_), (reduce, *_), _ = _groups(tensors)
        ctx.activate, ctx.blocks = activate, list(_blocks(chosen, reduce))
        wide = torch.promote_types(weights.dtype, reduce.dtype)
        total = reduce.new_zeros(len(weights), reduce.shape[2], dtype=wide)
        reduced = reduce.new_zeros(*weights.shape, reduce.shape[1])
        for expert, rows in ctx.blocks:
            (weight, *low), (down, *expand), inner = _groups(_pieces(tensors, expert, rows))
            hidden, weight = activate(inner, low, expand), weight[:, None]
            total.index_add_(0, rows, hidden * weight.to(wide))
            reduced[rows, expert] = torch.mm(hidden, down.t()).mul_(weight)
        return total.to(reduce.dtype), reduced

    @staticmethod
    @once_differentiable
    def backward(ctx, of_total, of_reduced):
        tensors = ctx.saved_tensors
        gradients = [torch.zeros_like(tensor) for tensor in tensors]
        for expert, rows in ctx.blocks:
            upstream = of_total.index_select(0, rows), of_reduced[rows, expert]
            pieces = _pieces(tensors, expert, rows)
            _add(gradients, expert, rows, _block_gradients(ctx.activate, pieces, *upstream))
        return None, None, *gradients


def _block_gradients(
    activate: Callable[..., Tensor], pieces: Sequence[Tensor], of_total: Tensor, of_reduced: Tensor
) -> list[Tensor]:
    """The gradients of the pieces, in their order. It overwrites of_total [t, I].

    With v = w h the outputs are v and A_d v, so dL/dv = of_total + of_reduced A_d.
    """
    (weight, *low), (down, *expand), inner = _groups(
        [piece.detach().requires_grad_() for piece in pieces]
    )
    with torch.enable_grad():
        hidden = activate(inner, low, expand)
    value, weight, down = hidden.detach(), weight.detach()[:, None], down.detach()
    of_weighted = of_total.addmm_(of_reduced, down)
    of_weight = torch.linalg.vecdot(of_weighted, value).to(weight.dtype)
    of_down = torch.mm((of_reduced * weight).to(value.dtype).t(), value)
    leaves = (*low, *expand, *inner)
    found = torch.autograd.grad(hidden, leaves, of_weighted.mul_(weight))
    return [of_weight, *found[: len(low)], of_down, *found[len(low) :]]


def _blocks(chosen: Tensor, like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each expert with the numbers of some of its tokens; like [..., I] says how many at a time."""
    limit = BLOCK_BYTES[like.is_cpu]
    size = max(limit // (like.shape[-1] * like.element_size()), 1)
    by_expert = chosen.t().nonzero()[:, 1].split(chosen.sum(0).tolist())
    for expert, tokens in enumerate(by_expert):
        if len(tokens):
            yield from ((expert, rows) for rows in tokens.split(size))


def _groups(
    tensors: Sequence[Tensor],
) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    """The tensors by token and expert, those by expert, and those by token."""
    count = (len(tensors) - 2) // 3
    first, second = count + 1, 2 * count + 2
    return tensors[:first], tensors[first:second], tensors[second:]


def _pieces(tensors: Sequence[Tensor], expert: int, rows: Tensor) -> list[Tensor]:
    """What one expert needs for these tokens."""
    by_both, by_expert, by_token = _groups(tensors)
    return [
        *(tensor[rows, expert] for tensor in by_both),
        *(tensor[expert] for tensor in by_expert),
        *(tensor.index_select(0, rows) for tensor in by_token),
    ]


def _add(totals: Sequence[Tensor], expert: int, rows: Tensor, parts: Sequence[Tensor]) -> None:
    """Add the gradients of `_pieces`, in a fixed order, because no token is twice in `rows`."""
    grouped = zip(_groups(totals), _groups(parts), strict=True)
    by_both, by_expert, by_token = (zip(*pair, strict=True) for pair in grouped)
    for total, part in by_both:
        total[rows, expert] = part
    for total, part in by_expert:
        total[expert] += part
    for total, part in by_token:
        total.index_add_(0, rows, part)
