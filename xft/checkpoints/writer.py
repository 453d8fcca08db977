"""Writes safetensors files tensor by tensor. Other threads hash and sync at the same time."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from xft.checkpoints.model_files import DTYPE_BYTES, INDEX_FILE, SINGLE_FILE, torch_dtype
from xft.checkpoints.reader import SELECTION, Checkpoint, TensorSource
from xft.common.file_access import link_or_copy
from xft.common.progress import progress

MAX_SHARD_BYTES = 5 * 10**9
PIECE_BYTES = 8 * 2**20  # hashed and written at the same time
WRITE_BYTES = 2**18  # larger writes take Linux up to twice as long per byte


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to write.

    name: in the file.
    dtype: in safetensors' spelling.
    shape: of the whole tensor.
    chunks: yields torch tensors of this dtype. Their values, one after the other, are the
    tensor in row-major order. A stack of experts is thus never in memory as a whole.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    def tensor(self, device=None):
        """The tensor in memory of its own, filled chunk by chunk."""
        import torch

        tensor = torch.empty(self.shape, dtype=torch_dtype(self.dtype), device=device)
        rest = tensor.view(-1)
        for chunk in self.chunks():
            part, rest = rest[: chunk.numel()], rest[chunk.numel() :]
            part.copy_(chunk.reshape(-1))
        return tensor


def write_checkpoint(
    folder: Path, specs: list[TensorSpec], max_shard_bytes: int = MAX_SHARD_BYTES
) -> dict[str, dict]:
    """Write tensors as `model.safetensors`, or as shards with an index.

    Returns size and SHA-256 of each safetensors file, by file name.
    """
    shards = _split(specs, max_shard_bytes)
    total = sum(spec.nbytes for spec in specs)
    files = {SINGLE_FILE: specs}
    count = len(shards)
    if count > 1:
        names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
        files = dict(zip(names, shards, strict=True))
        places = {spec.name: name for name, shard in files.items() for spec in shard}
        _write_index(folder, places, {"total_size": total})
    with progress(desc="write", total=total, unit="B", unit_scale=True) as bar:
        return {name: _write_file(folder / name, shard, bar) for name, shard in files.items()}


def _split(specs: list[TensorSpec], max_shard_bytes: int) -> list[list[TensorSpec]]:
    """The tensors of each shard. A tensor that is larger than a shard may be has its own."""
    shards = [[]]
    size = 0  # of the last shard
    for spec in specs:
        if shards[-1] and size + spec.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(spec)
        size += spec.nbytes
    return shards


def link_checkpoint(folder: Path, source: Checkpoint, names: Iterable[str]) -> list[str]:
    """Make a checkpoint of some tensors of another one, by `link_or_copy` of its files.

    Returns the names of the files.
    """
    files = {name: source.file(name) for name in names}
    linked = sorted(set(files.values()))
    for file in linked:
        link_or_copy(source.folder / file, folder / file)
    _write_index(folder, files, {SELECTION: True})
    return linked


def _write_index(folder: Path, files: dict[str, str], metadata: dict) -> None:
    """files: of each tensor, by name."""
    index = {"metadata": metadata, "weight_map": files}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _write_file(path: Path, specs: list[TensorSpec], bar) -> dict:
    """Write a file, and hash and sync it in other threads meanwhile."""
    digest = hashlib.sha256()
    with path.open("wb") as file, ThreadPoolExecutor(2) as threads:
        hashed = threads.submit(int)  # both have nothing to do yet
        synced = threads.submit(int)
        for piece in chain(_header(specs), _tensor_bytes(specs, bar)):
            hashed.result()
            hashed = threads.submit(digest.update, piece)
            for start in range(0, len(piece), WRITE_BYTES):
                file.write(piece[start : start + WRITE_BYTES])
            if synced.done():
                synced.result()
                synced = threads.submit(os.fsync, file.fileno())
        hashed.result()
        synced.result()
        file.flush()
        os.fsync(file.fileno())
        return {"size": file.tell(), "sha256": digest.hexdigest()}


def _header(specs: list[TensorSpec]) -> Iterable[bytes]:
    """The safetensors header: its length, then JSON padded with spaces to a multiple of 8 bytes."""
    entries = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        ends = [offset, offset + spec.nbytes]
        entries[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": ends}
        offset += spec.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little"), text


def _tensor_bytes(specs: list[TensorSpec], bar) -> Iterable[memoryview]:
    for spec in specs:
        written = 0
        for chunk in spec.chunks():
            for piece in _pieces(chunk):
                yield piece
                written += len(piece)
                bar.update(len(piece))
        if written != spec.nbytes:
            raise ValueError(f"{spec.name}: {written} bytes for a tensor of {spec.nbytes}")


def _pieces(tensor) -> Iterable[memoryview]:
    """The bytes of a tensor, in pieces that share its memory."""
    import torch

    values = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(values), PIECE_BYTES):
        yield values[start : start + PIECE_BYTES]


def copy_spec(source: TensorSource, name: str, new_name: str | None = None) -> TensorSpec:
    """A tensor of `source`, unchanged, under its own or a new name. NaN is refused."""
    return TensorSpec(new_name or name, *source.tensors[name], lambda: [source.get_finite(name)])


def computed_spec(name: str, dtype: str, shape: tuple[int, ...], compute: Callable) -> TensorSpec:
    """A tensor that `compute` gives as a whole. It is rounded to the dtype."""
    return TensorSpec(name, dtype, shape, lambda: [compute().to(torch_dtype(dtype))])


def trained_specs(before: TensorSource, state: dict, prefix: str) -> list[TensorSpec]:
    """Trained weights, with the names and dtypes of the checkpoint before training.

    state: what has learned, by name.
    prefix: of these names; the checkpoint's may lack it, since transformers loads such weights too.

    Other tensors of the checkpoint, such as frozen weights and the rotary frequencies of older
    models, are copied unchanged.
    """
    without_prefix = {name.removeprefix(f"{prefix}."): value for name, value in state.items()}
    learned = without_prefix | state
    specs = []
    for name in before.names:
        if name in learned:
            specs.append(computed_spec(name, *before.tensors[name], learned[name].cpu))
        else:
            specs.append(copy_spec(before, name))
    return specs
