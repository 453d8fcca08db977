"""Streaming writing of safetensors: tensors go to disk one by one, hashed on the way."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from workflow_scripts.checkpoints.dtypes import DTYPE_BYTES
from workflow_scripts.checkpoints.reader import INDEX_FILE, SINGLE_FILE
from workflow_scripts.progress import progress

MAX_SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class TensorPlan:
    """A tensor to be written.

    `chunks` yields torch tensors of this dtype whose values, one after the other, are the tensor's
    in row-major order: a stack of experts need never be in memory at once.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]


def write_checkpoint(
    folder: Path, plans: list[TensorPlan], max_shard_bytes: int = MAX_SHARD_BYTES
) -> dict[str, dict]:
    """Write the planned tensors as `model.safetensors`, or as shards with an index.

    Returns size and SHA-256 of each safetensors file, by file name.
    """
    shards = _split(plans, max_shard_bytes)
    names = [SINGLE_FILE]
    if len(shards) > 1:
        names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
        _write_index(folder / INDEX_FILE, dict(zip(names, shards, strict=True)))
    total = sum(plan.nbytes for plan in plans)
    with progress(desc="write", total=total, unit="B", unit_scale=True) as bar:
        return {
            name: _write_file(folder / name, shard, bar)
            for name, shard in zip(names, shards, strict=True)
        }


def _split(plans: list[TensorPlan], max_shard_bytes: int) -> list[list[TensorPlan]]:
    shards, size = [[]], 0
    for plan in plans:
        if shards[-1] and size + plan.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(plan)
        size += plan.nbytes
    return shards


def _write_index(path: Path, shards: dict[str, list[TensorPlan]]) -> None:
    index = {
        "metadata": {"total_size": sum(p.nbytes for shard in shards.values() for p in shard)},
        "weight_map": {p.name: file for file, shard in shards.items() for p in shard},
    }
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _write_file(path: Path, plans: list[TensorPlan], bar) -> dict:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in chain(_header(plans), _tensor_bytes(plans, bar)):
            file.write(block)
            digest.update(block)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    return {"size": size, "sha256": digest.hexdigest()}


def _header(plans: list[TensorPlan]) -> Iterable[bytes]:
    """The safetensors header: its length, then JSON padded with spaces to a multiple of 8 bytes."""
    entries, offset = {"__metadata__": {"format": "pt"}}, 0
    for plan in plans:
        entries[plan.name] = {
            "dtype": plan.dtype,
            "shape": list(plan.shape),
            "data_offsets": [offset, offset + plan.nbytes],
        }
        offset += plan.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little"), text


def _tensor_bytes(plans: list[TensorPlan], bar) -> Iterable[memoryview]:
    for plan in plans:
        written = 0
        for chunk in plan.chunks():
            block = _raw_bytes(chunk)
            yield block
            written += len(block)
            bar.update(len(block))
        if written != plan.nbytes:
            raise ValueError(f"{plan.name}: {written} bytes for a tensor of {plan.nbytes}")


def _raw_bytes(tensor) -> memoryview:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
