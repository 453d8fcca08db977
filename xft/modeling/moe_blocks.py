"""The blocks that replace a decoder layer's MLP: routed tokens, and experts, full or of low rank.

Of LoRA experts, i has W_i = W + s B_i A_i for each projection W of the MLP, with s = lora_alpha /
rank (LoRA, arXiv 2106.09685). With routing weights w_i, which include the shared expert's w_0, a
gated MLP gives
    h_i = act(W_g x + s B_g,i A_g,i x) * (W_u x + s B_u,i A_u,i x)
    y = W_d sum_i w_i h_i + s sum_i w_i B_d,i A_d,i h_i + b_d sum_i w_i.
So the base's products are computed once for each token, for any number of experts (MixLoRA,
arXiv 2404.15159, shares all but the last one).

Symbols: T tokens, E experts with the shared one, r rank, H hidden and I intermediate size, N and K
the outputs and inputs of a projection.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from xft.modeling.experts import Experts, as_autocast, read_mlp
from xft.modeling.router import Router, Routing

# Of one intermediate tensor of a block of tokens, on a GPU and (True) on a CPU. On a CPU a few of
# them stay in the cache.
BLOCK_BYTES = {False: 2**28, True: 2**20}


class TokenMask:
    """Which tokens of the backbone's forward pass are not padding. The model sets it for blocks.

    real: the numbers of these tokens [n]; None if no token is padding. On a GPU the host waits for
    them once, not in each block.
    keeps_routing: whether blocks keep their routing for the model. It is false in a backward pass
    that computes activations again, since a kept routing would keep these activations in memory,
    and where the backbone is called alone.
    """

    def __init__(self):
        self.real: Tensor | None = None
        self.keeps_routing = True

    def set(self, attention_mask: Tensor | None, length: int) -> None:
        """Set `real` from the last `length` columns of a 2-D attention mask.

        `real` is None if no token is padding.
        """
        self.real = None
        if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2:
            real = attention_mask[:, -length:].flatten().nonzero()[:, 0]
            self.real = real if len(real) < length * len(attention_mask) else None


class RoutedBlock(ABC, nn.Module):
    """Routes tokens, and lets a subclass compute them.

    Padding is neither routed nor counted; its output is zero. `routing` holds the router's decision
    until the model takes it.
    """

    def __init__(self, config, mlp: nn.Module, token_mask: TokenMask):
        super().__init__()
        self.shape = read_mlp(mlp)
        self.token_mask = token_mask
        self.router = Router(config, self.shape.hidden_size)
        self.routing: Routing | None = None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Hidden states of any shape [..., H] to the same shape."""
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        real = self.token_mask.real
        if real is None:
            return self.mix(tokens).view_as(hidden_states)
        real = real.to(tokens.device)
        output = torch.zeros_like(tokens)
        output[real] = self.mix(tokens[real])
        return output.view_as(hidden_states)

    def mix(self, tokens: Tensor) -> Tensor:
        """Route and compute real tokens [T, H]."""
        routing = self.router(tokens)
        if self.token_mask.keeps_routing:
            self.routing = routing
        return self.compute(tokens, routing).to(tokens.dtype)

    @abstractmethod
    def compute(self, tokens: Tensor, routing: Routing) -> Tensor:
        """The weighted sum of the chosen experts' outputs, for tokens [T, H]: [T, H]."""


class MoeBlock(RoutedBlock):
    """A shared expert and routed experts, weighted by the router.

    y = w_shared E_shared(x) + sum_i w_i E_i(x).
    """

    def __init__(self, config, mlp: nn.Module, token_mask: TokenMask):
        super().__init__(config, mlp, token_mask)
        self.experts = Experts(config, config.num_routed_experts, self.shape)
        self.shared_expert = mlp if config.shared_expert else None

    def compute(self, tokens: Tensor, routing: Routing) -> Tensor:
        output = self.experts(tokens, routing.indices, routing.weights)
        if self.shared_expert is not None:
            output = output + routing.shared_weight[:, None] * self.shared_expert(tokens)
        return output


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


class LowRankBlock(RoutedBlock):
    """An MLP whose experts, the shared one included, are low-rank changes of it.

    experts: the factors of all experts, by the names of the MLP's projections.
    """

    def __init__(self, config, mlp: nn.Module, token_mask: TokenMask):
        super().__init__(config, mlp, token_mask)
        self.dense = mlp
        self.experts = nn.ModuleDict()
        for name in self.shape.form.projections:
            linear = getattr(mlp, name)
            self.experts[name] = Factors(
                config.num_experts, config.rank, linear.in_features, linear.out_features
            )
        self.scale = config.lora_alpha / config.rank

    def compute(self, tokens: Tensor, routing: Routing) -> Tensor:
        """The weighted sum of the chosen experts' outputs, for tokens [T, H]: [T, H]."""
        chosen, weights = routing.spread()
        form = self.shape.form
        output = getattr(self.dense, form.output)
        last = self.experts[form.output]
        factors = [self.experts[name] for name in form.inputs]
        operands = Operands(
            weights=weights,
            wide=[getattr(self.dense, name)(tokens) for name in form.inputs],
            low=[self.scale * factor.reduce(tokens) for factor in factors],
            down=as_autocast(last.lora_A),
            expand=[as_autocast(factor.lora_B) for factor in factors],
        )
        hidden, reduced = weighted_hidden(self.activate, chosen, operands)
        result = nn.functional.linear(hidden, output.weight)
        result = result + self.scale * last.expand_sum(reduced)
        if output.bias is not None:
            result = result + weights.sum(1, keepdim=True) * output.bias
        return result

    def activate(self, part: "Operands") -> Tensor:
        """h of one expert, for its t tokens: [t, I]."""
        parts = zip(part.wide, part.low, part.expand, strict=True)
        return self.shape.activate([torch.addmm(wide, low, b.t()) for wide, low, b in parts])


class Operands(NamedTuple):
    """The operands of all E experts for T tokens; or, as a `part`, of one expert for t tokens.

    weights: w, [T, E] or [t].
    down: A_d, [E, r, I] or [r, I].
    low: s A x of each input projection, [T, E, r] or [t, r].
    expand: B of each input projection, [E, N, r] or [N, r].
    wide: W x + b of each input projection, [T, N] or [t, N].
    """

    weights: Tensor
    down: Tensor
    low: Sequence[Tensor]
    expand: Sequence[Tensor]
    wide: Sequence[Tensor]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "Operands":
        """The operands in a `flat` sequence, as an autograd function takes and returns them."""
        weights, down, *others = tensors
        inputs = len(others) // 3  # projections
        low, expand, wide = (others[n * inputs : (n + 1) * inputs] for n in range(3))
        return cls(weights, down, low, expand, wide)

    @property
    def flat(self) -> Sequence[Tensor]:
        return self.weights, self.down, *self.low, *self.expand, *self.wide

    def part(self, expert: int, rows: Tensor) -> "Operands":
        """The operands of an expert for these tokens."""
        return Operands(
            weights=self.weights[rows, expert],
            down=self.down[expert],
            low=[low[rows, expert] for low in self.low],
            expand=[expand[expert] for expand in self.expand],
            wide=[wide.index_select(0, rows) for wide in self.wide],
        )

    def add(self, expert: int, rows: Tensor, part: "Operands") -> None:
        """Add gradients of a `part`, in a fixed order, because no token is twice in `rows`."""
        self.weights[rows, expert] = part.weights
        self.down[expert] += part.down
        for total, low in zip(self.low, part.low, strict=True):
            total[rows, expert] = low
        for total, expand in zip(self.expand, part.expand, strict=True):
            total[expert] += expand
        for total, wide in zip(self.wide, part.wide, strict=True):
            total.index_add_(0, rows, wide)


@torch.compiler.disable
def weighted_hidden(
    activate: Callable[[Operands], Tensor], chosen: Tensor, operands: Operands
) -> tuple[Tensor, Tensor]:
    """sum_i w_i h_i [T, I], and w_i A_d,i h_i of all experts [T, E, r], zero if i is not chosen.

    activate: `LowRankBlock.activate`. chosen [T, E] bool.

    The first sum is computed in fp32 or more, and rounded once. torch.compile skips this function:
    it would compile again for each new number of an expert's tokens.
    """
    with torch.autocast(chosen.device.type, enabled=False):
        return WeightedHidden.apply(activate, chosen, *operands.flat)


class WeightedHidden(Function):
    """`weighted_hidden`. Each expert computes a block of its tokens at a time.

    So the k T I values of all h_i are never in memory. The backward pass computes them again.
    """

    @staticmethod
    def forward(ctx, activate, chosen, *tensors):
        ctx.save_for_backward(*tensors)
        operands = Operands.of(tensors)
        weights = operands.weights
        down = operands.down
        ctx.activate = activate
        ctx.blocks = list(_blocks(chosen, down))
        wide = torch.promote_types(weights.dtype, down.dtype)
        total = down.new_zeros(len(weights), down.shape[2], dtype=wide)
        reduced = down.new_zeros(*weights.shape, down.shape[1])
        for expert, rows in ctx.blocks:
            part = operands.part(expert, rows)
            hidden = activate(part)
            weight = part.weights[:, None]
            total.index_add_(0, rows, hidden * weight.to(wide))
            reduced[rows, expert] = torch.mm(hidden, part.down.t()).mul_(weight)
        return total.to(down.dtype), reduced

    @staticmethod
    @once_differentiable
    def backward(ctx, of_total, of_reduced):
        operands = Operands.of(ctx.saved_tensors)
        gradients = Operands.of([torch.zeros_like(tensor) for tensor in operands.flat])
        for expert, rows in ctx.blocks:
            part_gradients = _part_gradients(
                ctx.activate,
                operands.part(expert, rows),
                of_total.index_select(0, rows),
                of_reduced[rows, expert],
            )
            gradients.add(expert, rows, part_gradients)
        return None, None, *gradients.flat


def _part_gradients(
    activate: Callable[[Operands], Tensor], part: Operands, of_total: Tensor, of_reduced: Tensor
) -> Operands:
    """The gradients of a part. It overwrites of_total [t, I].

    With v = w h the outputs are v and A_d v, so dL/dv = of_total + of_reduced A_d.
    """
    part = Operands.of([tensor.detach().requires_grad_() for tensor in part.flat])
    with torch.enable_grad():
        hidden = activate(part)
    value = hidden.detach()
    weight = part.weights.detach()[:, None]
    down = part.down.detach()
    of_weighted = of_total.addmm_(of_reduced, down)
    of_weight = torch.linalg.vecdot(of_weighted, value).to(weight.dtype)
    of_down = torch.mm((of_reduced * weight).to(value.dtype).t(), value)
    leaves = (*part.low, *part.expand, *part.wide)
    of_leaves = torch.autograd.grad(hidden, leaves, of_weighted.mul_(weight))
    return Operands.of([of_weight, of_down, *of_leaves])


def _blocks(chosen: Tensor, like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each expert with the numbers of some of its tokens; like [..., I] says how many at a time."""
    limit = BLOCK_BYTES[like.is_cpu]
    size = max(limit // (like.shape[-1] * like.element_size()), 1)
    by_expert = chosen.t().nonzero()[:, 1].split(chosen.sum(0).tolist())
    for expert, tokens in enumerate(by_expert):
        if len(tokens) == 0:
            continue
        for rows in tokens.split(size):
            yield expert, rows
