"""A pretended GPU: its tensors hold their data on the CPU, and refuse what CUDA's refuse.

They have the device `meta`, for which torch computes gradients without any device.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("meta")
COPIES = {"_to_copy", "copy_"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2"}


class OnGpu(torch.Tensor):
    """A tensor on the pretended GPU, for use inside `pretended`."""

    is_cuda = True

    @staticmethod
    def __new__(cls, data):
        place = {"strides": data.stride(), "storage_offset": data.storage_offset()}
        return cls._make_wrapper_subclass(cls, data.shape, dtype=data.dtype, device=GPU, **place)

    def __init__(self, data):
        self.on_cpu = data

    def tolist(self):
        return self.cpu().tolist()

    def new_tensor(self, data, **options):
        return torch.tensor(data, **{"dtype": self.dtype, "device": GPU} | options)

    def __setitem__(self, place, value):
        parts = place if isinstance(place, tuple) else (place,)
        parts = [torch.tensor(part) if isinstance(part, list) else part for part in parts]
        super().__setitem__(tuple(parts), value)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of the block")


class PretendedGpu(TorchDispatchMode):
    """waits: what the host waited for, by the names of torch's operations.

    It waits for values, for shapes that depend on values, and for copies of memory that is not
    pinned.
    """

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)]
        known = {id(on_cpu(tensor)): tensor for tensor in tensors}
        assert not any(on_cpu(tensor).is_meta for tensor in tensors), "a tensor without data"
        begins_there = ends_there = any(isinstance(tensor, OnGpu) for tensor in tensors)
        if device := kwargs.get("device"):
            ends_there, kwargs["device"] = device == GPU, "cpu"
        if begins_there and name not in COPIES:
            refuse_two_devices(name, args, tensors)
        if ends_there and kwargs.get("generator") is not None:
            raise RuntimeError(f"{name}: a generator of another device")
        if begins_there and (name in WAITS or (name in INDEXED and is_mask(args[1]))):
            self.waits.append(name)
        if name in COPIES and (begins_there != ends_there or len({*map(type, tensors)}) == 2):
            self.waits.append(name)
        result = func(*tree_map_only(OnGpu, on_cpu, args), **tree_map_only(OnGpu, on_cpu, kwargs))
        made = OnGpu if ends_there else on_cpu
        return tree_map_only(
            torch.Tensor, lambda one: known[id(one)] if id(one) in known else made(one), result
        )


def on_cpu(tensor):
    return tensor.on_cpu if isinstance(tensor, OnGpu) else tensor


def is_mask(indices) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in indices)


def refuse_two_devices(name: str, args, tensors) -> None:
    """Scalars may be on the CPU. So may the indices of a tensor on the GPU, but not vice versa."""
    if name in INDEXED and isinstance(args[0], OnGpu):
        tensors = [args[0], *filter(torch.is_tensor, args[2:])]
    if any(one.dim() and not isinstance(one, OnGpu) for one in tensors):
        raise RuntimeError(f"{name}: operands on another device")


@contextmanager
def pretended() -> Iterator[PretendedGpu]:
    """A block with a pretended GPU. It has no autocast."""
    tensor, enabled, autocast = torch.tensor, torch.is_autocast_enabled, torch.autocast

    def make(data, device=None, **options):  # torch would make a tensor without data
        there = device is not None and torch.device(device) == GPU
        made = tensor(data, device="cpu" if there else device, **options)
        return made.to(GPU) if there else made

    changed = {
        "tensor": make,
        "inference_mode": torch.no_grad,
        "is_autocast_enabled": lambda *kind: kind != (GPU.type,) and enabled(*kind),
        "autocast": lambda kind, **given: autocast("cpu" if kind == GPU.type else kind, **given),
    }
    with patch.multiple(torch, **changed), PretendedGpu() as gpu:
        yield gpu


def waits_of(compute: Callable, *inputs) -> Counter:
    """What compute(*inputs) waits for on the GPU. Its tensors there must be near the CPU's.

    inputs: models, and batches of tensors. They are copied.
    """
    there = copy.deepcopy(inputs)
    torch.manual_seed(0)
    expected = tree_leaves(compute(*inputs))
    with pretended() as gpu:
        for value in there:
            if isinstance(value, torch.nn.Module):
                value.to(GPU)
            else:
                value |= {n: one.to(GPU) for n, one in value.items() if torch.is_tensor(one)}
        gpu.waits.clear()
        torch.manual_seed(0)
        found = tree_leaves(compute(*there))
    assert len(found) == len(expected)
    for value, other in zip(found, expected, strict=True):
        error = torch.linalg.vector_norm(value.on_cpu - other)
        assert error <= 1e-5 * torch.linalg.vector_norm(other)
    return Counter(gpu.waits)
