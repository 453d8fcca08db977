"""Reads and checks the header of a safetensors file before anything else reads the file.

A file holds the header's length (8 bytes, little-endian), the header, and the values of all
tensors. The header is a JSON object: {name: {"dtype", "shape", "data_offsets": [begin, end]}}.
Offsets are counted from the header's end. The header may also hold "__metadata__", an object of
texts.
"""

import hashlib
import re
from pathlib import Path

from workflow_scripts.checkpoints.dtypes import DTYPE_BYTES
from workflow_scripts.checkpoints.strict_json import parse_json
from workflow_scripts.common.errors import UserError

PREFIX_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # as in safetensors itself
ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
# Other formats that are often named *.safetensors. Read as a length, each start is far too large.
FOREIGN = {
    re.compile(rb"PK\x03\x04"): "a zip, not safetensors; nothing is unpickled",
    re.compile(rb"\x80[\x02-\x05]"): "a pickle, not safetensors; nothing is unpickled",
    re.compile(rb"version "): "a pointer of Git LFS, not safetensors; fetch the file itself",
}


def read_header(path: Path) -> bytes:
    """The first bytes of a safetensors file: the length and the header's JSON.

    Raises UserError, before it reads the header, if the file is too short for the stated length.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(PREFIX_BYTES)
        length = int.from_bytes(prefix, "little")
        if length <= min(MAX_HEADER_BYTES, size - PREFIX_BYTES):
            return prefix + file.read(length)
    for start, what in FOREIGN.items():
        if start.match(prefix):
            raise UserError(f"{path} is {what}")
    raise _broken(path, f"its {size} bytes cannot hold a header of {length} bytes")


def hash_header(path: Path) -> str:
    """SHA-256 of the length and the header, as hexadecimal digits. Raises UserError."""
    return hashlib.sha256(read_header(path)).hexdigest()


def read_tensors(path: Path) -> dict[str, dict]:
    """The dtype, shape and data_offsets of each of a file's tensors, by name.

    Raises UserError unless all dtypes are known, and the offsets fit the shapes and cover the file
    without gap or overlap.
    """
    header = read_header(path)
    content = parse_json(
        header[PREFIX_BYTES:], f"{path} is not a whole safetensors file: its header"
    )
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _broken(path, "its __metadata__ does not hold texts")
    value_bytes = path.stat().st_size - len(header)
    spans = sorted((*_span(path, *item, value_bytes), item[0]) for item in content.items())
    position = 0
    for begin, end, name in spans:
        if begin != position:
            raise _broken(path, f"{name[:80]!r} begins at byte {begin}, not {position}")
        position = end
    if position != value_bytes:
        raise _broken(path, f"{value_bytes} bytes follow its header, not {position}")
    return content


def _span(path: Path, name: str, entry: object, value_bytes: int) -> tuple[int, int]:
    """Where a tensor's values begin and end."""
    fault = None
    if not isinstance(entry, dict) or entry.keys() != ENTRY_KEYS:
        fault = "is not described by dtype, shape and data_offsets"
    elif not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPE_BYTES:
        fault = f"is of the unknown type {entry['dtype']!r:.40}"
    elif not _are_counts(entry["shape"]):
        fault = "has a shape that is not a list of sizes"
    elif not _are_counts(entry["data_offsets"]) or len(entry["data_offsets"]) != 2:
        fault = "has data_offsets other than a begin and an end"
    else:
        begin, end = entry["data_offsets"]
        if end > value_bytes:
            fault = "ends beyond the file"
        elif end - begin != _count_bytes(entry, value_bytes):
            fault = "has offsets that do not fit its shape"
    if fault:
        raise _broken(path, f"{name[:80]!r} {fault}")
    return begin, end


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _count_bytes(entry: dict, limit: int) -> int:
    """A tensor's size in bytes, or some number above `limit` if the size is above it.

    It stops early so that a damaged header cannot make it multiply huge numbers.
    """
    if 0 in entry["shape"]:
        return 0
    count = DTYPE_BYTES[entry["dtype"]]
    for size in entry["shape"]:
        count *= size
        if count > limit:
            break
    return count


def _broken(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is not a whole safetensors file: {reason}")
