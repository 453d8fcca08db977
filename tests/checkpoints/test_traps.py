"""Files that were written to deceive: refused with a UserError that names them."""

import json

import pytest

from xft.artifacts.manifest import read_manifest
from xft.checkpoints.header import read_tensors
from xft.checkpoints.reader import read_json
from xft.common.errors import UserError
from xft.common.limits import limited

READERS = (read_json, read_manifest, read_tensors)
JSON_TRAPS = {
    "deep lists": b'{"a": ' + b"[" * 200_000,
    "deep and closed": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a long number": b'{"a": ' + b"1" * 10_000 + b"}",
    "many keys, one twice": json.dumps({str(i): i for i in range(50_000)}).encode()[:-1]
    + b', "49999": 1}',
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "NUL": b'{"a": 1}\0',
}


@pytest.mark.parametrize("trap", JSON_TRAPS)
def test_json_traps_are_refused_by_every_reader(tmp_path, trap):
    file, content = tmp_path / "file", JSON_TRAPS[trap]
    length = len(content).to_bytes(8, "little")
    for read in READERS:
        file.write_bytes(length + content if read is read_tensors else content)
        with pytest.raises(UserError, match=str(file)):
            read(file)


@pytest.mark.parametrize(
    ("length", "size"),
    [(11, 18), (90_000_000, 100), (2**64 - 1, 18), (10**8 + 1, 10**8 + 9)],
)
def test_huge_lengths_cost_no_memory(tmp_path, length, size):
    """Sizes are checked before anything is read. The largest file is a hole: it takes no place on
    the disk.
    """
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(size)
    for read in READERS:
        fault = f"{size} bytes cannot hold a header of {length} b" if read is read_tensors else ""
        with pytest.raises(UserError, match=f"{path}.*{fault}"), limited(20, 50 * 2**20):
            read(path)
