"""Routed experts with fused weights. Each expert computes one slice of the sorted tokens.

`read_mlp` reads what an expert takes from a backbone's MLP, and tests that it can compute the same.

Symbols: T tokens, k experts per token, S = T k rows, R experts, H hidden and I intermediate size.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from xft.checkpoints.layout import MlpForm, find_form, forms
from xft.common.errors import UserError

ACTIVATION_NAMES = ("act_fn", "activation_fn", "act")


@dataclass(frozen=True)
class MlpShape:
    """The properties of the MLP that an expert shares.

    form: the names of its projections.
    hidden_size, intermediate_size: of its inputs, and between the projections.
    act_fn: its activation.
    bias: whether its projections have biases.
    """

    form: MlpForm
    hidden_size: int
    intermediate_size: int
    act_fn: Callable[[Tensor], Tensor]
    bias: bool

    def activate(self, inner: Sequence[Tensor]) -> Tensor:
        """act(gate) * up, or act(up) without a gate, of the input projections' outputs."""
        if not self.form.gated:
            return self.act_fn(*inner)
        gate, up = inner if len(inner) == 2 else inner[0].chunk(2, dim=-1)
        return self.act_fn(gate) * up


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
        hidden = shape.hidden_size
        intermediate = shape.intermediate_size
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
        if has_fast_grouped_mm(rows, getattr(self, self.up_name), self.down_proj):
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


def has_fast_grouped_mm(rows: Tensor, *weights: Tensor) -> bool:
    """Whether torch has a grouped kernel for these rows and weights.

    Without one, its grouped_mm is a loop that waits for the GPU in each product, or fails.
    """
    return (
        rows.is_cuda
        and rows.dtype == torch.bfloat16
        and len(rows) > 0
        and all(size % 8 == 0 for weight in weights for size in weight.shape[1:])
        and all(weight.data_ptr() % 16 == 0 for weight in weights)
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
        weight_gradient = None
        piece_gradients = [None] * len(pieces)
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


def read_mlp(mlp: nn.Module | None) -> MlpShape:
    """The shape of an MLP of a backbone.

    Raises UserError unless it computes down(act(gate(x)) * up(x)), or down(act(up(x))) if its form
    has no gate. The names of its linear layers give its form; a trial run tests its computation.
    """
    modules = getattr(mlp, "_modules", {})
    linear = {name: module for name, module in modules.items() if type(module) is nn.Linear}
    form = find_form(linear)
    activations = [getattr(mlp, name) for name in ACTIVATION_NAMES if hasattr(mlp, name)]
    act_fn = activations[0] if activations else None
    biases = {layer.bias is not None for layer in linear.values()}
    if form is None or act_fn is None or len(biases) > 1:
        raise UserError(
            f"an MLP of class {type(mlp).__name__} cannot be upcycled. It must have an activation "
            f"and one of these sets of linear layers, all with biases or all without: {forms()}"
        )
    output = linear[form.output]
    shape = MlpShape(form, output.out_features, output.in_features, act_fn, biases.pop())
    if not _computes_as_described(mlp, shape):
        raise UserError(
            f"an MLP of class {type(mlp).__name__} cannot be upcycled: it computes something else "
            f"than {', '.join(form.projections)} and its activation. It may have a multiplier, "
            "dropout or a norm between them"
        )
    return shape


def _computes_as_described(mlp: nn.Module, shape: MlpShape) -> bool:
    """Whether the MLP's own forward, in training mode and with small random projections, computes
    what an expert of this shape does.
    """
    form = shape.form
    hidden = 4
    intermediate = 6
    generator = torch.Generator("cpu").manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device="cpu", dtype=torch.float32)

    trial = copy.copy(mlp)
    trial._modules = {
        name: module for name, module in mlp._modules.items() if name not in form.projections
    }
    trial.training = True
    into = 2 * intermediate if form.gated else intermediate
    weights = dict(zip(form.inputs, random(into, hidden).chunk(len(form.inputs)), strict=True))
    weights[form.output] = random(hidden, intermediate)
    for name, weight in weights.items():
        trial.__dict__[name] = partial(nn.functional.linear, weight=weight)
    x = random(1, 3, hidden)
    inner = shape.activate([nn.functional.linear(x, weights[name]) for name in form.inputs])
    expected = nn.functional.linear(inner, weights[form.output])
    return torch.allclose(trial(x), expected, atol=1e-4, rtol=1e-4)
