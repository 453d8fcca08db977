"""Routed experts with fused weights, each of which computes one slice of the sorted tokens.

Symbols: T tokens, k experts per token, S = T k slots, R experts, H hidden and I intermediate size.
"""

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS


class Experts(nn.Module):
    """R feed-forward networks: down(act(gate(x)) * up(x)), or down(act(up(x))) without a gate.

    gate_up_proj [R, 2I, H], or up_proj [R, I, H] without a gate; down_proj [R, H, I]; with biases
    also gate_up_proj_bias [R, 2I] or up_proj_bias [R, I], and down_proj_bias [R, H]. These names
    and the attributes are those that transformers' implementations of experts expect;
    `config._experts_implementation` chooses one of them, or `forward_sorted` by "eager".
    """

    has_post_expert_norm = False
    is_transposed = False
    is_concatenated = True
    _is_expert_parallel = False

    def __init__(
        self,
        config,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        act_fn,
        gated: bool = True,
        bias: bool = False,
    ):
        super().__init__()
        self.config = config
        self.num_experts = num_experts
        self.act_fn = act_fn
        self.has_gate = gated
        self.has_bias = bias
        self.up_name = "gate_up_proj" if gated else "up_proj"
        width = 2 * intermediate_size if gated else intermediate_size
        sizes = {self.up_name: (width, hidden_size), "down_proj": (hidden_size, intermediate_size)}
        for name, (out, inner) in sizes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(num_experts, out, inner)))
            empty_bias = nn.Parameter(torch.empty(num_experts, out)) if bias else None
            self.register_parameter(f"{name}_bias", empty_bias)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """The weighted sum of the chosen experts' outputs, [T, H] in the dtype of `hidden_states`.

        hidden_states [T, H], top_k_index [T, k] int64, top_k_weights [T, k] fp32.
        """
        implementation = self.config._experts_implementation
        compute = ALL_EXPERTS_FUNCTIONS.get_interface(implementation, Experts.forward_sorted)
        return compute(self, hidden_states, top_k_index, top_k_weights)

    def forward_sorted(self, hidden_states: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """`forward` over slots sorted by expert. Sums in fp32, rounds once; deterministic."""
        experts, order = index.flatten().sort(stable=True)
        place = order.argsort()
        all_experts = torch.arange(self.num_experts, device=index.device)
        ends = torch.searchsorted(experts, all_experts, right=True, out_int32=True)
        rows = TakeRows.apply(autocast(hidden_states), order // index.shape[1], place)
        if has_grouped_mm(rows, self.down_proj):
            rows = self.grouped_mm(rows, experts, ends)
        else:
            rows = self.loop(rows, ends)
        slots = TakeRows.apply(rows, place, order).view(*index.shape, hidden_states.shape[1])
        return (slots * weights[..., None]).sum(1).to(hidden_states.dtype)

    @torch.compiler.disable
    def loop(self, rows: Tensor, ends: Tensor) -> Tensor:
        """Sorted rows [S, H] to [S, H], one matrix product per expert; ends [R] as in `grouped_mm`.

        Pieces of one expert stay small, and gate and up projection apart: nothing is copied.
        """
        pieces = rows.split(ends.diff(prepend=ends.new_zeros(1)).tolist())
        weight, bias = self.weight_and_bias(self.up_name)
        if self.has_gate:
            pieces = [piece for piece in pieces for _ in ("gate", "up")]
            weight = weight.view(len(pieces), -1, weight.shape[2])
            bias = None if bias is None else bias.view(len(pieces), -1)
        outputs = linear_by_expert(pieces, weight, bias)
        if self.has_gate:
            gates, ups = outputs[::2], outputs[1::2]
            hidden = [self.act_fn(gate) * up for gate, up in zip(gates, ups, strict=True)]
        else:
            hidden = [self.act_fn(output) for output in outputs]
        return torch.cat(linear_by_expert(hidden, *self.weight_and_bias("down_proj")))

    def grouped_mm(self, rows: Tensor, experts: Tensor, ends: Tensor) -> Tensor:
        """Sorted rows [S, H] to [S, H] by torch's grouped kernel, without waiting for the device.

        experts [S]: the expert of each row; ends [R] int32: where the rows of each expert end.
        """
        hidden = grouped_linear(rows, *self.weight_and_bias(self.up_name), experts, ends)
        hidden = self._apply_gate(hidden) if self.has_gate else self.act_fn(hidden)
        return grouped_linear(hidden, *self.weight_and_bias("down_proj"), experts, ends)

    def weight_and_bias(self, name: str) -> tuple[Tensor, Tensor | None]:
        """A projection's weight and bias (None without), in autocast's dtype."""
        bias = getattr(self, f"{name}_bias")
        return autocast(getattr(self, name)), None if bias is None else autocast(bias)

    def _apply_gate(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return self.act_fn(gate) * up


def autocast(tensor: Tensor) -> Tensor:
    """`tensor` in autocast's dtype; itself where autocast is off."""
    device = tensor.device.type
    if torch.is_autocast_enabled(device):
        return tensor.to(torch.get_autocast_dtype(device))
    return tensor


def has_grouped_mm(rows: Tensor, weight: Tensor) -> bool:
    """Whether torch has a fast grouped kernel for these rows and weights of these sizes."""
    return (
        rows.is_cuda
        and rows.dtype == torch.bfloat16
        and len(rows) > 0
        and all(size % 8 == 0 for size in weight.shape[1:])
        and hasattr(nn.functional, "grouped_mm")
        and torch.cuda.get_device_capability(rows.device) >= (9, 0)
    )


def grouped_linear(
    rows: Tensor, weight: Tensor, bias: Tensor | None, experts: Tensor, ends: Tensor
) -> Tensor:
    """Each row [K] of [S, K] times its expert's weight [N, K] of [R, N, K], plus bias [R, N]."""
    output = nn.functional.grouped_mm(rows, weight.transpose(1, 2), offs=ends)
    return output if bias is None else output + bias[experts]


def linear_by_expert(pieces, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """The same for rows that are split by expert: R pieces of [rows, K] to R of [rows, N]."""
    outputs = ExpertLinear.apply(weight, *pieces)
    return outputs if bias is None else [y + b for y, b in zip(outputs, bias, strict=True)]


class ExpertLinear(Function):
    """Piece e times weight[e] transposed. Weight gradients are written in place into one tensor.

    Through `weight[e]` or `unbind` autograd would copy all gradients once more. Experts without
    tokens get a gradient of zero.
    """

    @staticmethod
    def forward(ctx, weight, *pieces):
        ctx.save_for_backward(weight, *pieces)
        return tuple(torch.mm(x, w.t()) for x, w in zip(pieces, weight, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        weight, *pieces = ctx.saved_tensors
        needs_weight, *needs_pieces = ctx.needs_input_grad
        weight_gradient = torch.empty_like(weight) if needs_weight else None
        if needs_weight:
            for g, x, out in zip(gradients, pieces, weight_gradient, strict=True):
                torch.mm(g.t(), x, out=out)
        piece_gradients = [None] * len(pieces)
        if any(needs_pieces):
            piece_gradients = [torch.mm(g, w) for g, w in zip(gradients, weight, strict=True)]
        return weight_gradient, *piece_gradients


class TakeRows(Function):
    """rows[index], where each row is taken equally often; slot s of the rows stands at place[s].

    index [S], place [S]. The gradient is gathered, not scattered: deterministic on any device.
    """

    @staticmethod
    def forward(ctx, rows, index, place):
        ctx.save_for_backward(place)
        ctx.shape = rows.shape
        return rows.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (place,) = ctx.saved_tensors
        gradient = gradient.index_select(0, place)
        if len(place) != ctx.shape[0]:
            gradient = gradient.view(ctx.shape[0], -1, ctx.shape[1]).sum(1)
        return gradient, None, None
