"""Step 7 with other methods than XFT's: merges that depend on the base's weights.

B is a tensor of the base. T is the same tensor of XFT's merged model: the experts' weighted mean C
(conversions/merge.py) for a tensor of an upcycled MLP, else the mixture's own tensor.

- task_arithmetic (arXiv 2212.04089): W = B + s (T - B) for all tensors.
- model_stock (arXiv 2403.19522): W = B + t (C - B), t by `stock_ratio`. A tensor that the mixture
  holds once has t = 1.
"""

from dataclasses import replace
from pathlib import Path

from xft.artifacts.artifact import Artifact, open_artifact
from xft.checkpoints.capacity import EMBEDDINGS
from xft.checkpoints.dtypes import FLOAT_NAMES, torch_dtype
from xft.checkpoints.reader import Checkpoint
from xft.checkpoints.writer import TensorPlan
from xft.common.errors import UserError
from xft.config.sections import MergeMethod
from xft.conversions.common import copy_plan
from xft.conversions.merge import merge_plans, unmerged
from xft.conversions.merged_tensors import MergedTensor, merged_tensors
from xft.conversions.mixing_artifact import MixingArtifact, MixingSources


def open_base(path: Path, moe: Artifact, full: bool = False) -> Artifact:
    """Open the dense base. Raises UserError if the mixture says that it has another one."""
    base = open_artifact(path, "base", "dense", full=full)
    known = moe.manifest.parameters.get("base", {})
    if "id" in known and known["id"] != base.id:
        raise UserError(f"{moe.path} was not made from {path} but from another base")
    return base


def dense_plans(
    sources: MixingSources, coefficients, method: MergeMethod, base: Artifact | None = None
) -> list[TensorPlan]:
    """Plan the dense model. Each tensor is computed in fp32 or better, and rounded once.

    coefficients: as for `merge_plans`. base: None for xft, which does not depend on it. Raises
    UserError if the base lacks a tensor, or has it in another shape.
    """
    moe, ffn = sources.moe.checkpoint, sources.ffn.checkpoint
    if base is None:
        return merge_plans(moe, ffn, coefficients)
    return _plans_from(base.checkpoint, moe, ffn, coefficients, method)


def _plans_from(
    base: Checkpoint, moe: Checkpoint, ffn: Checkpoint, coefficients, method: MergeMethod
) -> list[TensorPlan]:
    plans = []
    for new_name, name in unmerged(moe).items():
        if method.method == "model_stock" or moe.dtype(name) not in FLOAT_NAMES:
            plans.append(copy_plan(moe, name, new_name))
        else:
            plans.append(_scaled_plan(moe, name, new_name, base, method.scale))
    for tensor in merged_tensors(moe, ffn, coefficients.shape):
        plans.append(_merged_plan(tensor, tensor.own(coefficients), method, base))
    return plans


def stock_ratio(products) -> float:
    """t = E cos / ((E - 1) cos + 1), from 0 to 1 (Model Stock, arXiv 2403.19522).

    cos is the mean cosine between the task vectors W_i - B of two experts, at least 0. An expert
    that equals the base has no direction and is not counted. t is 1 if fewer than two are left.

    products: <W_i - B, W_j - B>, [E, E] in fp64.
    """
    import torch

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
    import torch

    last = mixing.alpha.shape[-1]
    if not 1 <= expert <= last:
        raise UserError(
            f"--expert {expert}: the routed experts have the numbers 1 to {last}. Choose one"
        )
    alpha = torch.full_like(mixing.alpha, -torch.inf)
    alpha[..., expert - 1] = 0
    return replace(mixing, alpha=alpha)


def _merged_plan(
    tensor: MergedTensor, coefficients, method: MergeMethod, base: Checkpoint
) -> TensorPlan:
    base_name = name_in_base(base, tensor.name, tensor.shape)

    def compute() -> list:
        start = base.get(base_name)
        if method.method == "model_stock":
            weight = stock_ratio(tensor.task_products(start))
        else:
            weight = method.scale
        merged = tensor.merged(coefficients)
        return [_along(start, merged, weight).to(torch_dtype(tensor.dtype))]

    return TensorPlan(tensor.name, tensor.dtype, tensor.shape, compute)


def _scaled_plan(
    moe: Checkpoint, name: str, new_name: str, base: Checkpoint, scale: float
) -> TensorPlan:
    base_name = name_in_base(base, new_name, moe.shape(name))

    def compute() -> list:
        import torch

        tuned = moe.get(name)
        precise = tuned.to(torch.promote_types(tuned.dtype, torch.float32))
        return [_along(base.get(base_name), precise, scale).to(tuned.dtype)]

    return TensorPlan(new_name, moe.dtype(name), moe.shape(name), compute)


def _along(start, end, weight: float):
    """B + w (T - B) in T's dtype, exactly T if w = 1. start: B, of any dtype; end: T."""
    import torch

    return torch.lerp(start.to(end.dtype), end, weight)


def name_in_base(base: Checkpoint, name: str, shape: tuple[int, ...]) -> str:
    """The name in the base of a tensor of the mixture.

    A mixture's file may hold the head of tied embeddings. In the base that is the embedding.
    """
    tied = [other for other in base.names if other.endswith(EMBEDDINGS)]
    candidates = [name] if name in base else tied
    for candidate in candidates:
        if base.shape(candidate) == shape and base.dtype(candidate) in FLOAT_NAMES:
            return candidate
    raise UserError(
        f"{base.folder} has no floating-point tensor {name} of the shape {list(shape)}: it is not "
        "the base of this mixture. Give the base that the mixture was made from"
    )
