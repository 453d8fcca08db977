"""The header of a safetensors file: its hash, and the tensors that it names.

A file is 8 bytes that hold the header's length (little-endian), the header, then the values of all
tensors. The library safetensors checks the header when it opens the file. This module first checks
what safetensors reports unclearly, or only after it used much memory.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from xft.common.errors import UserError
from xft.common.file_access import open_regular

PREFIX_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # as in safetensors itself
# Other formats that are often named *.safetensors. Read as a length, each start is far too large.
FOREIGN = {
    re.compile(rb"PK\x03\x04"): "a zip, not safetensors; nothing is unpickled",
    re.compile(rb"\x80[\x02-\x05]"): "a pickle, not safetensors; nothing is unpickled",
    re.compile(rb"version "): "a pointer of Git LFS, not safetensors; fetch the file itself",
}
DTYPE_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL"), 1),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
}
FLOAT_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
INTEGER_NAMES = {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"}
TORCH_NAMES = FLOAT_NAMES | INTEGER_NAMES | {"BOOL": "bool"}


class TensorInfo(NamedTuple):
    """What a header says of a tensor. dtype: in safetensors' spelling ("F32", "BF16")."""

    dtype: str
    shape: tuple[int, ...]


def hash_header(path: Path) -> str:
    """SHA-256 of the length and the header, as hexadecimal digits.

    Raises UserError if the file cannot hold such a header, before that much is read.
    """
    length = _header_length(path)
    with path.open("rb") as file:
        return hashlib.sha256(file.read(PREFIX_BYTES + length)).hexdigest()


def read_tensors(path: Path) -> dict[str, TensorInfo]:
    """All tensors of a file, by name. No values are read, and torch is not needed.

    Raises UserError unless the file is a regular one and its header is sound: known dtypes, and
    offsets that fit the shapes, follow each other without gap or overlap, and cover the file.
    """
    _header_length(path)
    with open_safetensors(path, "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.offset_keys()}
        tensors = {n: TensorInfo(s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()}
    for name, (dtype, _) in tensors.items():
        if dtype not in DTYPE_BYTES:
            raise UserError(
                f"{path}: {name[:80]!r} is of the type {dtype}, which is not supported. Convert "
                "the weights to bfloat16 or float32 first"
            )
    return tensors


def open_safetensors(path: Path, framework: str):
    """The file as safetensors opens it: checked, and mapped into memory.

    framework: "pt" for torch's tensors, "numpy" without torch. Raises UserError.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework)
    except SafetensorError as error:
        raise _broken(path, f"safetensors says {str(error)[:200]!r}") from None


def _header_length(path: Path) -> int:
    """The length of the header in bytes. Raises UserError if it cannot be right."""
    with open_regular(path) as file:
        size, prefix = os.fstat(file.fileno()).st_size, file.read(PREFIX_BYTES)
    length = int.from_bytes(prefix, "little")
    if length <= min(MAX_HEADER_BYTES, size - PREFIX_BYTES):
        return length
    for start, what in FOREIGN.items():
        if start.match(prefix):
            raise UserError(f"{path} is {what}")
    raise _broken(path, f"its {size} bytes cannot hold a header of {length} bytes")


def _broken(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is not a whole safetensors file: {reason}. Fetch it or make it again")


def torch_dtype(name: str):
    """torch's dtype for a type in safetensors' spelling ("F32", "BF16")."""
    import torch

    return getattr(torch, TORCH_NAMES[name])
