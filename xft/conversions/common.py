"""Plans and random numbers that several conversions use."""

import hashlib
from collections.abc import Callable

from xft.checkpoints.dtypes import torch_dtype
from xft.checkpoints.reader import TensorSource
from xft.checkpoints.writer import TensorSpec


def copy_plan(source: TensorSource, name: str, new_name: str | None = None) -> TensorSpec:
    """A tensor of `source`, unchanged, under its own or a new name. NaN is refused."""
    return TensorSpec(
        new_name or name, source.dtype(name), source.shape(name), lambda: [source.get_finite(name)]
    )


def computed_plan(name: str, dtype: str, shape: tuple[int, ...], compute: Callable) -> TensorSpec:
    """Plan a tensor that `compute` gives as a whole. It is rounded to the dtype."""
    return TensorSpec(name, dtype, shape, lambda: [compute().to(torch_dtype(dtype))])


def seeded_generator(seed: int, name: str):
    """A torch generator for what has this name. Its draws depend on seed and name alone."""
    import torch

    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def trained_plans(before: TensorSource, state: dict, prefix: str) -> list[TensorSpec]:
    """Plan trained weights with the names and dtypes of the checkpoint before training.

    state: what has learned, by name.
    prefix: of these names; the checkpoint's may lack it, since transformers loads such weights too.

    Other tensors of the checkpoint, such as frozen weights and the rotary frequencies of older
    models, are copied unchanged.
    """
    learned = {name.removeprefix(f"{prefix}."): value for name, value in state.items()} | state
    return [
        computed_plan(name, before.dtype(name), before.shape(name), learned[name].cpu)
        if name in learned
        else copy_plan(before, name)
        for name in before.names
    ]
