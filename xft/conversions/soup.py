"""The plain mean of dense models' weights (model soup, arXiv 2203.05482)."""

from collections.abc import Iterator

import torch

from xft.checkpoints.dtypes import FLOAT_NAMES, torch_dtype
from xft.checkpoints.model_config import IDLE_KEYS
from xft.checkpoints.reader import TensorSource
from xft.checkpoints.writer import TensorSpec
from xft.common.errors import UserError
from xft.conversions.blocks import stacked_blocks
from xft.conversions.common import copy_plan


def soup_plans(models: list[TensorSource]) -> list[TensorSpec]:
    """Plan W = (W_1 + ... + W_n) / n for each tensor, computed in fp64 and rounded once.

    Tensors of other than floating-point numbers, such as positions, are copied. Raises UserError
    unless there are two or more, and all have the same config but for IDLE_KEYS, the same tensors
    with the same shapes and dtypes, and equal values where these are copied.
    """
    if len(models) < 2:
        raise UserError("a mean needs at least two models. Name another one")
    first, *others = models
    for other in others:
        if fault := _config_fault(first.config, other.config) or _tensor_fault(first, other):
            raise UserError(
                f"{first.folder} and {other.folder} have no mean: {fault}. Give models that were "
                "made from the same base"
            )
    return [
        _mean_plan(models, name) if first.dtype(name) in FLOAT_NAMES else copy_plan(first, name)
        for name in first.names
    ]


def _mean_plan(models: list[TensorSource], name: str) -> TensorSpec:
    dtype, shape = models[0].dtype(name), models[0].shape(name)

    def means() -> Iterator:
        for block in stacked_blocks(model.get_finite(name) for model in models):
            yield block.mean(dim=0).to(torch_dtype(dtype))

    return TensorSpec(name, dtype, shape, means)


def _config_fault(first: dict, other: dict) -> str | None:
    keys = sorted((first.keys() | other.keys()) - IDLE_KEYS - {"torch_dtype"})
    differing = [key for key in keys if first.get(key, ...) != other.get(key, ...)]
    return f"config.json differs in {', '.join(differing)}" if differing else None


def _tensor_fault(first: TensorSource, other: TensorSource) -> str | None:
    if different := set(first.names) ^ set(other.names):
        return f"only one of them has the tensor {min(different)}"
    for name in first.names:
        kinds = [f"{model.dtype(name)} {list(model.shape(name))}" for model in (first, other)]
        if kinds[0] != kinds[1]:
            return f"{name} is {' and '.join(kinds)}"
        is_copied = first.dtype(name) not in FLOAT_NAMES
        if is_copied and not torch.equal(first.get(name), other.get(name)):
            return f"{name} of type {first.dtype(name)} has other values"
    return None
