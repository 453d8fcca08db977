"""Reads the form and sizes of a backbone's MLP, and tests that an expert can compute the same."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from xft.checkpoints.layout import MlpForm, find_form, forms
from xft.common.errors import UserError

ACTIVATION_NAMES = ("act_fn", "activation_fn", "act")


@dataclass(frozen=True)
class MlpShape:
    """What an expert takes from the MLP.

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


def read_mlp(mlp: nn.Module | None) -> MlpShape:
    """The shape of an MLP of a backbone.

    Raises UserError unless it computes down(act(gate(x)) * up(x)), or down(act(up(x))) if its form
    has no gate. The names of its linear layers give its form; a trial run tests its computation.
    """
    linear = {name: m for name, m in getattr(mlp, "_modules", {}).items() if type(m) is nn.Linear}
    form = find_form(linear)
    act_fn = next((getattr(mlp, name) for name in ACTIVATION_NAMES if hasattr(mlp, name)), None)
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
    form, hidden, intermediate = shape.form, 4, 6
    generator = torch.Generator("cpu").manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device="cpu", dtype=torch.float32)

    trial = copy.copy(mlp)
    trial._modules = {k: m for k, m in mlp._modules.items() if k not in form.projections}
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
