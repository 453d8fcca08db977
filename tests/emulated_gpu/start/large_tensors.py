"""Tensors that are too large to be computed: they have memory of a device, and no values.

The memory of a device that is never written costs nothing. So a model of real size trains here, and
torch's allocator counts what a card would need. The environment variable EMULATED_GPU_MOST_BYTES
chooses which tensors are large.
"""

import math
import os
from collections.abc import Iterator

import torch
from torch.utils._pytree import tree_any, tree_leaves, tree_map

MOST_BYTES = int(os.environ.get("EMULATED_GPU_MOST_BYTES") or 0) or math.inf


def is_large(value) -> bool:
    """Whether a value is a tensor of more than MOST_BYTES."""
    return isinstance(value, torch.Tensor) and value.nbytes > MOST_BYTES


def any_large(*values) -> bool:
    """Whether there is a large tensor in any of the values, which may be nested."""
    return math.isfinite(MOST_BYTES) and tree_any(is_large, values)


def small_results(func, results) -> Iterator[torch.Tensor]:
    """The tensors that are not large in new memory that an operator gives."""
    returns = func._schema.returns
    parts = (results,) if len(returns) == 1 else results or ()
    for place, value in zip(returns, parts, strict=False):
        if place.alias_info is None:
            yield from filter(_is_small, tree_leaves(value))


def on_host_without_values(func, args, kwargs):
    """What an operator on the host gives for large tensors there: memory that it does not write.

    A view, and what needs values, is computed.
    """
    if func.is_view or torch.Tag.data_dependent_output in func.tags:
        return func(*args, **kwargs)
    if func._schema.is_mutable:
        return _written(func, args, kwargs)
    shapes = func(*tree_map(_without_memory, args), **tree_map(_without_memory, kwargs))
    return tree_map(_unwritten, shapes)


def _is_small(value) -> bool:
    return isinstance(value, torch.Tensor) and not is_large(value)


def _written(func, args, kwargs):
    """The arguments that an operator writes and returns."""
    arguments = func._schema.arguments
    named = dict(zip((argument.name for argument in arguments), args, strict=False)) | kwargs
    is_written = [argument.alias_info and argument.alias_info.is_write for argument in arguments]
    written = [named[a.name] for a, chosen in zip(arguments, is_written, strict=True) if chosen]
    number = len(func._schema.returns)
    return written[0] if number == 1 else tuple(written[:number]) or None


def _without_memory(value):
    """A tensor, or the argument `device`, on the meta device; anything else unchanged."""
    if isinstance(value, torch.device):
        return torch.device("meta")
    return value.to("meta") if isinstance(value, torch.Tensor) else value


def _unwritten(value):
    """A tensor of the host's like one on the meta device: zeros, if it is small."""
    if not isinstance(value, torch.Tensor):
        return value
    like = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="cpu")
    return like if is_large(like) else like.zero_()
