"""Step 7: plans the dense model by XFT's method, or by those that depend on the base's weights.

B is a tensor of the base. T is the same tensor of XFT's merged model: the experts' weighted mean C
(conversions/merge.py) for a tensor of an upcycled MLP, else the mixture's own tensor.

- task_arithmetic (arXiv 2212.04089): W = B + s (T - B) for all tensors.
- a function of the user's (common/user_code.py), for a tensor of an upcycled MLP.
- select (arXiv 2605.28207 scores experts and keeps some): C with the share 1 for the routed expert
  of each layer that most tokens chose, and 0 for the others.
- model_stock (arXiv 2403.19522): W = B + t (C - B), t by `stock_ratio`. A tensor that the mixture
  holds once has t = 1.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from xft.artifacts.artifact import OpenedArtifact, open_artifact
from xft.checkpoints.dtypes import FLOAT_NAMES
from xft.checkpoints.reader import TensorSource
from xft.checkpoints.writer import TensorSpec
from xft.common.errors import UserError
from xft.common.user_code import called
from xft.config.sections import MergeMethod
from xft.conversions.common import computed_plan, copy_plan
from xft.conversions.merge import unmerged
from xft.conversions.merged_tensors import MergedTensor, merged_tensors, name_in_base
from xft.conversions.mixing_artifact import MixingArtifact


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
    method: MergeMethod,
    base: TensorSource | None = None,
    function: Callable | None = None,
) -> list[TensorSpec]:
    """Plan the dense model. Each tensor is computed in fp32 or better, and rounded once.

    moe: the mixture.
    ffn: the FFN weights of its experts.
    coefficients: from `mixing_coefficients`, [layers or 1, projections or 1, 1 + R].
    base: None for xft, which does not depend on it.
    function: merges the experts, in place of the method.

    Raises UserError if the base lacks a tensor, or has it in another shape.
    """
    plans = []
    for new_name, name in unmerged(moe).items():
        if method.method == "task_arithmetic" and moe.dtype(name) in FLOAT_NAMES:
            target = new_name, moe.dtype(name), moe.shape(name)
            plans.append(_moved_plan(base, target, partial(moe.get, name), method.scale))
        else:
            plans.append(copy_plan(moe, name, new_name))
    for tensor in merged_tensors(moe, ffn, coefficients.shape):
        target = tensor.name, tensor.dtype, tensor.shape
        shares = tensor.coefficients_of(coefficients)
        merged = partial(tensor.merged, shares)
        if function is not None:
            plans.append(
                computed_plan(*target, partial(_merged_by, function, tensor, shares, base))
            )
        elif base is None:
            plans.append(computed_plan(*target, merged))
        else:
            weight = tensor if method.method == "model_stock" else method.scale
            plans.append(_moved_plan(base, target, merged, weight))
    return plans


def _merged_by(
    function: Callable, tensor: MergedTensor, coefficients: torch.Tensor, base: TensorSource
) -> torch.Tensor:
    """The merged tensor in fp32. Raises UserError if the function fails, or returns another shape.

    coefficients: the tensor's own, [1 + R]. The function gets copies, so it may change them.
    """
    copied = partial(torch.Tensor.to, device=coefficients.device, dtype=torch.float32, copy=True)
    start = base.get(name_in_base(base, tensor.name, tensor.shape))
    given = [copied(expert) for expert in tensor.experts()], copied(coefficients), copied(start)
    place = f"merge.method: {tensor.name}"
    merged = called(function, place, *given)
    if not isinstance(merged, torch.Tensor) or tuple(merged.shape) != tensor.shape:
        shape = list(getattr(merged, "shape", [])) or type(merged).__name__
        raise UserError(f"{place}: it returned {shape}, not a tensor of {list(tensor.shape)}")
    if not merged.isfinite().all():
        raise UserError(f"{place}: it returned values that are not finite")
    return merged.float()


def _moved_plan(
    base: TensorSource, target: tuple, tuned: Callable, weight: float | MergedTensor
) -> TensorSpec:
    """Plan B + w (T - B), exactly T if w = 1, computed in fp32 or better.

    target: the name, dtype and shape of the tensor.
    tuned: gives T.
    weight: w, or the tensor whose experts give it.
    """
    name, dtype, shape = target
    base_name = name_in_base(base, name, shape)

    def compute():
        start, end = base.get(base_name), tuned()
        end = end.to(torch.promote_types(end.dtype, torch.float32))
        share = weight if isinstance(weight, float) else stock_ratio(weight.task_products(start))
        return torch.lerp(start.to(end.dtype), end, share)

    return computed_plan(name, dtype, shape, compute)


def stock_ratio(products) -> float:
    """t = E cos / ((E - 1) cos + 1), from 0 to 1 (Model Stock, arXiv 2403.19522).

    cos is the mean cosine between the task vectors W_i - B of two experts, at least 0. An expert
    that equals the base has no direction and is not counted. t is 1 if fewer than two are left.

    products: <W_i - B, W_j - B>, [E, E] in fp64.
    """
    norms = products.diagonal().sqrt()
    moved = norms > 0
    count = int(moved.sum())
    if count < 2:
        return 1.0
    directions = norms[moved]
    cosines = products[moved][:, moved] / torch.outer(directions, directions)
    pairs = count * (count - 1) / 2
    cosine = min(max(cosines.triu(1).sum().item() / pairs, 0.0), 1.0)
    return count * cosine / ((count - 1) * cosine + 1)


def one_expert(mixing: MixingArtifact, expert: int) -> MixingArtifact:
    """The same lambda with a single routed expert, counted from 1: its share is 1.

    Raises UserError if there is no such expert.
    """
    last = mixing.alpha.shape[-1]
    if not 1 <= expert <= last:
        raise UserError(
            f"--expert {expert}: the routed experts have the numbers 1 to {last}. Choose one"
        )
    return _with_experts(mixing, torch.full(mixing.alpha.shape[:-1], expert - 1))


def most_used(mixing: MixingArtifact, loads: torch.Tensor) -> MixingArtifact:
    """The same lambda with the routed expert of each layer that has the largest of its loads.

    loads: [layers, R].
    """
    sets = mixing.alpha.shape[1]
    return _with_experts(mixing, loads.argmax(-1)[:, None].expand(-1, sets))


def _with_experts(mixing: MixingArtifact, experts: torch.Tensor) -> MixingArtifact:
    """One routed expert, counted from 0, for each set of coefficients [layers or 1, sets]."""
    shape = *experts.shape, mixing.alpha.shape[-1]
    alpha = torch.full(shape, -torch.inf).scatter(-1, experts[..., None], 0.0)
    logit = mixing.lambda_logit
    return replace(
        mixing, alpha=alpha, lambda_logit=None if logit is None else logit.expand(experts.shape)
    )
