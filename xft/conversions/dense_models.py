"""Dense models: what a mixture merges to (step 7), and the plain mean of dense models.

The merge is XFT's, or a function of the user's. The mean is a model soup (arXiv 2203.05482).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from xft.artifacts.artifact import OpenedArtifact, open_artifact
from xft.checkpoints.model_files import IDLE_KEYS, torch_dtype
from xft.checkpoints.reader import TensorSource
from xft.checkpoints.writer import TensorSpec, computed_spec, copy_spec
from xft.common.errors import UserError
from xft.common.user_code import called
from xft.conversions.merged_tensors import merged_tensors, name_in_base, stacked_blocks, unmerged


def open_base(path: Path, moe: OpenedArtifact, full: bool = False) -> OpenedArtifact:
    """Open the dense base. Raises UserError if the mixture says that it has another one."""
    base = open_artifact(path, "base", "dense", full=full)
    known = moe.manifest.parameters.get("base", {})
    if "id" in known and known["id"] != base.id:
        raise UserError(f"{moe.path} was not made from {path} but from another base")
    return base


def dense_specs(
    moe: TensorSource,
    ffn: TensorSource,
    coefficients,
    base: TensorSource | None = None,
    function: Callable | None = None,
    loads: Mapping[int, Tensor] = {},
) -> list[TensorSpec]:
    """The tensors of the merged model, each computed in fp32 or better, and rounded once.

    moe: the mixture.
    ffn: the FFN weights of its experts.
    coefficients: from `mixing_coefficients`, [layers or 1, projections or 1, 1 + R].
    function: merges the experts with the base. Without it the base is not read.
    loads: of the routed experts, by the number of the layer, if the function takes them.

    Raises UserError if the base lacks a tensor, or has it in another shape.
    """
    specs = []
    for new_name, name in unmerged(moe).items():
        if _takes_every_tensor(function) and moe.is_float(name):
            held = partial(_held_once, moe, name)
            one = torch.ones(1, device=coefficients.device)
            target = Target(new_name, *moe.tensors[name])
            specs.append(_function_spec(function, target, held, one, base))
        else:
            specs.append(copy_spec(moe, name, new_name))
    for tensor in merged_tensors(moe, ffn, coefficients.shape):
        target = Target(tensor.name, tensor.dtype, tensor.shape)
        weights = tensor.coefficients_of(coefficients)
        if function is None:
            specs.append(computed_spec(*target, partial(tensor.merged, weights)))
            continue
        merge = function
        if loads:
            merge = partial(function, load=loads[tensor.layer.index].clone())
        specs.append(_function_spec(merge, target, tensor.experts, weights, base))
    return specs


class Target(NamedTuple):
    """A tensor of the merged model. dtype: in safetensors' spelling."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def _takes_every_tensor(function: Callable | None) -> bool:
    """Whether a function also merges the tensors that the mixture holds once."""
    without_arguments = getattr(function, "func", function)  # of a `functools.partial`
    return getattr(without_arguments, "every_tensor", False)


def _held_once(moe: TensorSource, name: str) -> list[Tensor]:
    """A tensor that the mixture holds once, as the list of its experts."""
    return [moe.get_finite(name)]


def _function_spec(
    function: Callable,
    target: Target,
    experts: Callable[[], Iterable[Tensor]],
    coefficients: Tensor,
    base: TensorSource,
) -> TensorSpec:
    """A tensor by a function. Raises UserError if it fails, or returns something else.

    coefficients: of this tensor, [experts]. The function gets copies, so it may change them.
    """
    start = name_in_base(base, target.name, target.shape)
    place = f"merge.method: {target.name}"

    def copied(tensor: Tensor) -> Tensor:
        return tensor.to(device=coefficients.device, dtype=torch.float32, copy=True)

    def compute() -> Tensor:
        tensors = [copied(expert) for expert in experts()]
        merged = called(function, place, tensors, copied(coefficients), copied(base.get(start)))
        if not isinstance(merged, Tensor) or tuple(merged.shape) != target.shape:
            form = list(merged.shape) if isinstance(merged, Tensor) else type(merged).__name__
            raise UserError(f"{place}: it returned {form}, not a tensor of {list(target.shape)}")
        if not merged.isfinite().all():
            raise UserError(f"{place}: it returned values that are not finite")
        return merged.float()

    return computed_spec(*target, compute)


def soup_specs(models: list[TensorSource]) -> list[TensorSpec]:
    """W = (W_1 + ... + W_n) / n for each tensor, computed in fp64 and rounded once.

    Tensors of other than floating-point numbers, such as positions, are copied. Raises UserError
    unless there are two or more, and all have the same config but for IDLE_KEYS, the same tensors
    with the same shapes and dtypes, and equal values where these are copied.
    """
    if len(models) < 2:
        raise UserError("a mean needs at least two models. Name another one")
    first, *others = models
    for other in others:
        fault = _config_fault(first.config, other.config)
        if fault is None:
            fault = _tensor_fault(first, other)
        if fault is not None:
            raise UserError(
                f"{first.folder} and {other.folder} have no mean: {fault}. Give models that were "
                "made from the same base"
            )
    specs = []
    for name in first.names:
        if first.is_float(name):
            specs.append(_mean_spec(models, name))
        else:
            specs.append(copy_spec(first, name))
    return specs


def _mean_spec(models: list[TensorSource], name: str) -> TensorSpec:
    dtype, shape = models[0].tensors[name]

    def means() -> Iterator:
        for block in stacked_blocks(model.get_finite(name) for model in models):
            yield block.mean(dim=0).to(torch_dtype(dtype))

    return TensorSpec(name, dtype, shape, means)


def _config_fault(first: dict, other: dict) -> str | None:
    """The difference between the configs of two models; None if none matters."""
    keys = sorted((first.keys() | other.keys()) - IDLE_KEYS - {"torch_dtype"})
    differing = [key for key in keys if first.get(key, ...) != other.get(key, ...)]
    return f"config.json differs in {', '.join(differing)}" if differing else None


def _tensor_fault(first: TensorSource, other: TensorSource) -> str | None:
    """The difference between the tensors of two models, apart from floating-point values."""
    different = set(first.names) ^ set(other.names)
    if different:
        return f"only one of them has the tensor {min(different)}"
    for name in first.names:
        kind, other_kind = (
            f"{model.dtype(name)} {list(model.shape(name))}" for model in (first, other)
        )
        if kind != other_kind:
            return f"{name} is {kind} and {other_kind}"
        if not first.is_float(name) and not torch.equal(first.get(name), other.get(name)):
            return f"{name} of type {first.dtype(name)} has other values"
    return None
