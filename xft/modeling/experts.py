"""Routed experts with fused weights. Each expert computes one slice of the sorted tokens.

Symbols: T tokens, k experts per token, S = T k rows, R experts, H hidden and I intermediate size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from xft.modeling.mlp import MlpShape


class Experts(nn.Module):
    """R feed-forward networks: down(act(gate(x)) * up(x)), or down(act(up(x))) without a gate.

    Weights: gate_up_proj [R, 2I, H], or up_proj [R, I, H] without a gate; down_proj [R, H, I].
    Biases, if any: gate_up_proj_bias [R, 2I] or up_proj_bias [R, I]; down_proj_bias [R, H].
    transformers' implementations of experts need these names and attributes.
    `config._experts_implementation` chooses one of them; "eager" chooses `compute_sorted`.
    """

    has_post_expert_norm = False
    is_transposed = False
    is_concatenated = True
    _is_expert_parallel = False

    def __init__(self, config, num_experts: int, shape: MlpShape):
        """shape: of each expert."""
        super().__init__()
        self.config = config
        self.num_experts = num_experts
        self.shape = shape
        self.act_fn = shape.act_fn
        self.has_gate = shape.form.gated
        self.has_bias = shape.bias
        self.up_name = "gate_up_proj" if self.has_gate else "up_proj"
        hidden, intermediate = shape.hidden_size, shape.intermediate_size
        width = 2 * intermediate if self.has_gate else intermediate
        sizes = {self.up_name: (width, hidden), "down_proj": (hidden, intermediate)}
        for name, size in sizes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(num_experts, *size)))
            if self.has_bias:
                empty_bias = nn.Parameter(torch.empty(num_experts, size[0]))
                self.register_parameter(f"{name}_bias", empty_bias)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """The weighted sum of the chosen experts' outputs, [T, H] in the dtype of `hidden_states`.

        hidden_states [T, H], top_k_index [T, k] int64, top_k_weights [T, k] fp32.
        """
        implementation = self.config._experts_implementation
        compute = ALL_EXPERTS_FUNCTIONS.get_interface(implementation, Experts.compute_sorted)
        return compute(self, hidden_states, top_k_index, top_k_weights)

    def compute_sorted(self, hidden_states: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """`forward`, with the rows sorted by expert. Sums in fp32, rounds once, deterministic."""
        expert, order = index.flatten().sort(stable=True)
        place = order.argsort()
        numbers = torch.arange(self.num_experts, device=index.device)
        ends = torch.searchsorted(expert, numbers, right=True, out_int32=True)
        rows = TakeRows.apply(as_autocast(hidden_states), order // index.shape[1], place)
        if has_fast_grouped_mm(rows, self.down_proj):
            rows = self.compute_grouped(rows, expert, ends)
        else:
            rows = self.compute_loop(rows, ends)
        rows = TakeRows.apply(rows, place, order).view(*index.shape, hidden_states.shape[1])
        return (rows * weights[..., None]).sum(1).to(hidden_states.dtype)

    @torch.compiler.disable
    def compute_loop(self, rows: Tensor, ends: Tensor) -> Tensor:
        """Sorted rows [S, H] to [S, H], with one matrix product per expert and projection.

        ends [R]: the end of each expert's rows. Small tensors reuse memory. The gate and the up
        projection are separate products, so that neither result is a strided half of a tensor.
        torch.compile skips this function: it would compile again for each new number of rows.
        """
        pieces = rows.split(ends.diff(prepend=ends.new_zeros(1)).tolist())
        weight, bias = self.weight_and_bias(self.up_name)
        if self.has_gate:
            pieces = [piece for piece in pieces for _ in ("gate", "up")]
            weight = weight.view(len(pieces), -1, weight.shape[2])
            bias = None if bias is None else bias.view(len(pieces), -1)
        inner = linear_by_expert(pieces, weight, bias)
        inputs = len(inner) // self.num_experts
        starts = range(0, len(inner), inputs)
        hidden = [self.shape.activate(inner[start : start + inputs]) for start in starts]
        return torch.cat(linear_by_expert(hidden, *self.weight_and_bias("down_proj")))

    def compute_grouped(self, rows: Tensor, expert: Tensor, ends: Tensor) -> Tensor:
        """The same as `compute_loop` with torch's grouped products, which do not wait for a GPU.

        expert [S]: the expert of each row; ends [R] int32.
        """
        hidden = grouped_linear(rows, *self.weight_and_bias(self.up_name), expert, ends)
        hidden = self.shape.activate([hidden])
        return grouped_linear(hidden, *self.weight_and_bias("down_proj"), expert, ends)

    def weight_and_bias(self, name: str) -> tuple[Tensor, Tensor | None]:
        """A projection's weight and bias in the dtype of the computation; None without a bias."""
        bias = as_autocast(getattr(self, f"{name}_bias")) if self.has_bias else None
        return as_autocast(getattr(self, name)), bias

    def _apply_gate(self, gate_up: Tensor) -> Tensor:
        return self.shape.activate([gate_up])


def as_autocast(tensor: Tensor) -> Tensor:
    """The tensor in autocast's dtype, because custom functions ignore autocast.

    Without autocast the tensor is unchanged.
    """
    device = tensor.device.type
    enabled = torch.is_autocast_enabled(device)
    return tensor.to(torch.get_autocast_dtype(device)) if enabled else tensor


def has_fast_grouped_mm(rows: Tensor, weight: Tensor) -> bool:
    """Whether torch has a grouped kernel for these rows and weights.

    Without one, its grouped_mm is a loop that waits for the GPU in each product.
    """
    return (
        rows.is_cuda
        and rows.dtype == torch.bfloat16
        and len(rows) > 0
        and all(size % 8 == 0 for size in weight.shape[1:])
        and hasattr(nn.functional, "grouped_mm")
        and torch.cuda.get_device_capability(rows.device) >= (9, 0)
    )


def grouped_linear(
    rows: Tensor, weight: Tensor, bias: Tensor | None, expert: Tensor, ends: Tensor
) -> Tensor:
    """Sorted rows [S, K] times weight [R, N, K] plus bias [R, N]: [S, N]. See compute_grouped."""
    output = nn.functional.grouped_mm(rows, weight.transpose(1, 2), offs=ends)
    return output if bias is None else output + bias[expert]


def linear_by_expert(
    pieces: Sequence[Tensor], weight: Tensor, bias: Tensor | None
) -> Sequence[Tensor]:
    """R pieces [rows, K], one per expert, times weight [R, N, K] plus bias [R, N]: [rows, N]."""
    outputs = ExpertLinear.apply(weight, *pieces)
    return outputs if bias is None else [y + b for y, b in zip(outputs, bias, strict=True)]


class ExpertLinear(Function):
    """Each piece times its expert's weight.

    Each expert writes its gradient into one tensor, zero if it has no tokens. Autograd would copy
    the gradients of all slices of the weight into one tensor again.
    """

    @staticmethod
    def forward(ctx, weight, *pieces):
        ctx.save_for_backward(weight, *pieces)
        return tuple(torch.mm(x, w.t()) for x, w in zip(pieces, weight, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        weight, *pieces = ctx.saved_tensors
        weight_gradient, piece_gradients = None, [None] * len(pieces)
        if ctx.needs_input_grad[0]:
            weight_gradient = torch.empty_like(weight)
            for g, x, out in zip(gradients, pieces, weight_gradient, strict=True):
                torch.mm(g.t(), x, out=out)
        if any(ctx.needs_input_grad[1:]):
            piece_gradients = [torch.mm(g, w) for g, w in zip(gradients, weight, strict=True)]
        return weight_gradient, *piece_gradients


class TakeRows(Function):
    """rows[index], if each of the n rows is taken equally often.

    index [S]. place [S]: all places of row 0 in the result, then those of row 1, and so on. With
    it the gradient is a gather too, with sums in a fixed order.
    """

    @staticmethod
    def forward(ctx, rows, index, place):
        ctx.save_for_backward(place)
        ctx.shape = rows.shape
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.index_select(0, *ctx.saved_tensors)
        if len(gradient) > ctx.shape[0]:
            gradient = gradient.view(ctx.shape[0], -1, ctx.shape[1]).sum(1)
        return gradient, None, None
