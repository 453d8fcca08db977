"""Computes on the host what the kernels of the emulated GPU do not compute.

torch itself runs each operator on the emulated GPU first. There it checks devices and dtypes,
chooses kernels, and allocates results. Then the host computes the values in the same memory.
"""

import ctypes
import os

import torch
from host_attention import KERNELS
from large_tensors import any_large, on_host_without_values, small_results
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
LIBRARY = "libemulatedgpu.so"
# Operators whose indices may be masks. On a card, torch asks for the number of elements of a mask.
INDEXED = {
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index_put.default,
}
# Operators that only choose the memory of a tensor.
WITHOUT_VALUES = {
    aten.record_stream.default,
    aten.set_.source_Storage,
    aten.set_.source_Storage_storage_offset,
    aten.set_.source_Tensor,
}
# Operators of torch.distributed. NCCL's calls move the values themselves.
COLLECTIVES = ("c10d", "_c10d_functional")


class EmulationError(RuntimeError):
    """The host cannot compute an operator as the GPU would."""


def begin() -> None:
    """Start the emulation when this process first uses CUDA, if the library is loaded."""
    if LIBRARY in os.environ.get("LD_PRELOAD", ""):
        torch.cuda._lazy_call(_start)


def _start() -> None:
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cudnn.enabled = False
    HostValues().__enter__()


class HostValues(TorchDispatchMode):
    """Gives the tensors on the emulated GPU their values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace in COLLECTIVES or only_shapes_are_asked():
            return func(*args, **kwargs)
        if any(map(has_own_dispatch, types)):
            return NotImplemented
        device = next(filter(None, map(gpu_of, tree_leaves((args, kwargs)))), None)
        if device is None and any_large(args, kwargs):
            return on_host_without_values(func, args, kwargs)
        if device is None or func in WITHOUT_VALUES:
            return func(*args, **kwargs)
        if func in INDEXED:
            args = (args[0], without_masks(args[1]), *args[2:])
        elif is_known_by_values(func):
            return tree_map(lambda one: on_gpu(one, device), on_host(func, args, kwargs))
        draw = Draw(device) if torch.Tag.nondeterministic_seeded in func.tags else None
        result = func(*args, **kwargs)
        if any_large(args, kwargs, result):
            for small in small_results(func, result):
                as_host(small).zero_()
            return result
        if func in KERNELS:
            return with_attention(func, args, kwargs, result)
        computed = draw.repeat(func, args, kwargs) if draw else on_host(func, args, kwargs)
        for place, values in zip(tree_leaves(result), tree_leaves(computed), strict=True):
            if isinstance(place, torch.Tensor):
                fill(func, place, values)
        return result


class Draw:
    """A random draw on the GPU. Its values follow from the state of the GPU's generator, which the
    operator advances on the GPU, as on a card. The generator of the CPU stays as it was.
    """

    def __init__(self, device: torch.device):
        generator = torch.cuda.default_generators[device.index or 0]
        self.seed = hash((generator.initial_seed(), generator.get_offset())) % 2**63

    def repeat(self, func, args, kwargs):
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(self.seed)
        try:
            return on_host(func, args, kwargs)
        finally:
            torch.default_generator.set_state(before)


def with_attention(func, args, kwargs, result):
    """The results of a kernel for attention. Those that only its backward pass reads stay empty."""
    computed = KERNELS[func](*tree_map(as_host, args), **tree_map(as_host, kwargs))
    for place, values in zip(result, computed, strict=False):
        fill(func, place, values)
    return result


def is_known_by_values(func) -> bool:
    """Whether the shape of the result, or the result itself, depends on values."""
    by_values = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
    return not by_values.isdisjoint(func.tags)


def only_shapes_are_asked() -> bool:
    """Whether torch computes with tensors that have no memory, as DTensor does for its plans."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


def has_own_dispatch(kind: type) -> bool:
    """Whether a class of tensors computes by operators on the tensors in it, as DTensor does."""
    return kind.__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl


def gpu_of(value) -> torch.device | None:
    """The GPU of a tensor, or of an argument `device`; None for anything else."""
    device = value.device if isinstance(value, torch.Tensor) else value
    return device if isinstance(device, torch.device) and device.type == "cuda" else None


def on_host(func, args, kwargs):
    """What an operator computes from the same values on the host. Raises EmulationError."""
    try:
        return func(*tree_map(as_host, args), **tree_map(as_host, kwargs))
    except (RuntimeError, NotImplementedError) as error:
        raise EmulationError(f"the host cannot compute {func}: {error}") from error


def as_host(value):
    """An operator's argument as the host's."""
    if isinstance(value, torch.Generator) and value.device.type == "cuda":
        return None
    if isinstance(value, torch.device) and gpu_of(value):
        return torch.device("cpu")
    return host_view(value) if gpu_of(value) else value


def host_view(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the host's over the memory of a tensor on the emulated GPU."""
    storage = tensor.untyped_storage()
    if tensor.numel() == 0:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    values = storage.nbytes() // tensor.element_size()
    flat = torch.frombuffer(memory, dtype=tensor.dtype, count=values)
    view = flat.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
    return view.conj() if tensor.is_conj() else view


def on_gpu(value, device: torch.device):
    """A tensor of the host's in memory of the GPU; any other value unchanged."""
    if not isinstance(value, torch.Tensor):
        return value
    like = {"dtype": value.dtype, "device": device}
    copy = torch.empty_strided(value.size(), value.stride(), **like)
    host_view(copy).copy_(value)
    return copy


def without_masks(indices) -> list:
    """Indices, with the places of what a mask keeps instead of the mask."""
    numbers = []
    for index in indices:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            numbers.append(index)
            continue
        places = as_host(index).nonzero(as_tuple=True)
        numbers += [on_gpu(place, index.device) for place in places]
    return numbers


def fill(func, place: torch.Tensor, values: torch.Tensor) -> None:
    """Give an operator's result the host's values, unless they are in the same memory.

    place: on the GPU; on the host for a copy from the GPU, which the GPU may have packed first.
    """
    if place.shape != values.shape or place.dtype != values.dtype:
        kinds = [f"{tuple(one.shape)} {one.dtype}" for one in (place, values)]
        raise EmulationError(f"{func} gives {kinds[0]} on the GPU and {kinds[1]} on the host")
    view = as_host(place)
    if view.data_ptr() != values.data_ptr():
        view.copy_(values)
