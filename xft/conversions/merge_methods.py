"""Step 7: plans the dense model by XFT's method, or by a function of the user's."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from xft.artifacts.artifact import OpenedArtifact, open_artifact
from xft.checkpoints.dtypes import FLOAT_NAMES
from xft.checkpoints.reader import TensorSource
from xft.checkpoints.writer import TensorSpec
from xft.common.errors import UserError
from xft.common.user_code import called
from xft.conversions.common import computed_plan, copy_plan
from xft.conversions.merge import unmerged
from xft.conversions.merged_tensors import merged_tensors, name_in_base


def open_base(path: Path, moe: OpenedArtifact, full: bool = False) -> OpenedArtifact:
    """Open the dense base. Raises UserError if the mixture says that it has another one."""
    base = open_artifact(path, "base", "dense", full=full)
    known = moe.manifest.parameters.get("base", {})
    if "id" in known and known["id"] != base.id:
        raise UserError(f"{moe.path} was not made from {path} but from another base")
    return base


def dense_plans(
    moe: TensorSource,
    ffn: TensorSource,
    coefficients,
    base: TensorSource | None = None,
    function: Callable | None = None,
    loads: Mapping[int, Tensor] = {},
) -> list[TensorSpec]:
    """Plan the dense model. Each tensor is computed in fp32 or better, and rounded once.

    moe: the mixture.
    ffn: the FFN weights of its experts.
    coefficients: from `mixing_coefficients`, [layers or 1, projections or 1, 1 + R].
    function: merges the experts with the base. Without it the base is not read.
    loads: of the routed experts, by the number of the layer, if the function takes them.

    Raises UserError if the base lacks a tensor, or has it in another shape.
    """
    plans, every = [], getattr(getattr(function, "func", function), "every_tensor", False)
    one = torch.ones(1, device=coefficients.device)
    for new_name, name in unmerged(moe).items():
        if every and moe.dtype(name) in FLOAT_NAMES:
            target = new_name, moe.dtype(name), moe.shape(name)
            held = partial(lambda name: [moe.get_finite(name)], name)
            plans.append(_function_plan(function, target, held, one, base))
        else:
            plans.append(copy_plan(moe, name, new_name))
    for tensor in merged_tensors(moe, ffn, coefficients.shape):
        target = tensor.name, tensor.dtype, tensor.shape
        shares = tensor.coefficients_of(coefficients)
        if function is None:
            plans.append(computed_plan(*target, partial(tensor.merged, shares)))
        else:
            load = {"load": loads[tensor.layer.index].clone()} if loads else {}
            merges = partial(function, **load)
            plans.append(_function_plan(merges, target, tensor.experts, shares, base))
    return plans


def _function_plan(
    function: Callable,
    target: tuple,
    experts: Callable[[], Iterable[Tensor]],
    coefficients: Tensor,
    base: TensorSource,
) -> TensorSpec:
    """Plan a tensor by a function. Raises UserError if it fails, or returns something else.

    target: the name, dtype and shape of the tensor. coefficients: its own, [experts].
    The function gets copies, so it may change them.
    """
    name, dtype, shape = target
    start, place = name_in_base(base, name, shape), f"merge.method: {name}"

    def compute() -> Tensor:
        copied = partial(Tensor.to, device=coefficients.device, dtype=torch.float32, copy=True)
        given = (
            [copied(expert) for expert in experts()],
            copied(coefficients),
            copied(base.get(start)),
        )
        merged = called(function, place, *given)
        if not isinstance(merged, Tensor) or tuple(merged.shape) != shape:
            found = list(getattr(merged, "shape", [])) or type(merged).__name__
            raise UserError(f"{place}: it returned {found}, not a tensor of {list(shape)}")
        if not merged.isfinite().all():
            raise UserError(f"{place}: it returned values that are not finite")
        return merged.float()

    return computed_plan(name, dtype, shape, compute)
